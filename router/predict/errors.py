"""Predictions checked against what happened: how far off they are, and to which side."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from enum import StrEnum
from statistics import median

from core.metrics.predictions import ERROR_BUCKETS, PredictionNumbers
from core.worker import Role

_NEWEST = 512


class Quantity(StrEnum):
    """What is predicted."""

    TTFT = "ttft"
    TPOT = "tpot"
    QUEUE = "queue"
    TRANSFER = "transfer"
    OUTPUT_TOKENS = "output_tokens"


_LEAST = {Quantity.OUTPUT_TOKENS: 1.0}
_LEAST_S = 0.001
"""What happened counts as at least this when errors are put in relation to it: an empty queue is no division by zero."""

_HAS_ROLE = frozenset({Quantity.TTFT, Quantity.TPOT, Quantity.QUEUE})
"""Of these errors differ by the pool the worker is in."""


class PredictionErrors:
    """Relative errors, ``predicted / happened - 1``: all of them counted, the newest in full. Bounded."""

    def __init__(self) -> None:
        self._checks: dict[tuple[Quantity, Role | None], _Checks] = {}
        for quantity in Quantity:
            for role in (*Role,) if quantity in _HAS_ROLE else (None,):
                self._checks[quantity, role] = _Checks()

    def observe(self, quantity: Quantity, predicted: float | None, happened: float, role: Role | None = None) -> None:
        """It has happened. ``predicted`` None: nothing was. ``role`` is the worker's; only where it makes a difference is it looked at."""
        if predicted is None or not math.isfinite(predicted) or not math.isfinite(happened):
            return
        error = (predicted - happened) / max(happened, _LEAST.get(quantity, _LEAST_S))
        self._checks[quantity, (role or Role.DECODE) if quantity in _HAS_ROLE else None].add(error)

    @property
    def numbers(self) -> list[PredictionNumbers]:
        """For Prometheus."""
        return [checks.numbers(quantity, "" if role is None else role) for (quantity, role), checks in self._checks.items()]

    def bias(self, quantity: Quantity, role: Role | None = None) -> float:
        """Median relative error of the newest, above 0 where too much is predicted; 0 before there is any."""
        return self._checks[quantity, role].bias

    def typical(self, quantity: Quantity, role: Role | None = None) -> float:
        """Median size of the newest relative errors; 0 before there is any."""
        return self._checks[quantity, role].typical


class _Checks:
    """One quantity's."""

    __slots__ = ("_counts", "_newest", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(ERROR_BUCKETS) + 1)
        self._sum = 0.0
        self._newest: deque[float] = deque(maxlen=_NEWEST)

    def add(self, error: float) -> None:
        self._newest.append(error)
        self._sum += abs(error)
        self._counts[bisect_left(ERROR_BUCKETS, abs(error))] += 1

    @property
    def bias(self) -> float:
        return median(self._newest) if self._newest else 0.0

    @property
    def typical(self) -> float:
        return median(map(abs, self._newest)) if self._newest else 0.0

    def numbers(self, quantity: str, role: str) -> PredictionNumbers:
        return PredictionNumbers(quantity, role, tuple(self._counts), self._sum, self.bias, self.typical)
