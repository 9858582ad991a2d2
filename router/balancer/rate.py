"""How much of something a worker is given per second lately: of prompts to compute, in seconds, or of requests that are handed over."""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.ids import WorkerId
from core.worker import Role
from router.plan import View
from router.sight import pool_of

_MEMORY_S = 10.0
_FRESH_S = 0.1
"""For so long a mean is good: it changes in seconds, and is asked for with every decision."""
_BEGUN_S = 1.0
"""So much time counts as gone from the beginning: one prompt in the first millisecond is no sign of a full load."""


@dataclass(slots=True)
class _Sum:
    amount: float
    at_s: float


class Rate:
    """An exponentially fading sum per worker, in relation to the time it is of."""

    def __init__(self, memory_s: float = _MEMORY_S) -> None:
        self._memory_s = memory_s
        self._sums: dict[WorkerId, _Sum] = {}
        self._began_s: float | None = None
        self._means: dict[Role, tuple[float, float]] = {}

    def took(self, worker: WorkerId, amount: float, now: float) -> None:
        """The worker was given so much."""
        if self._began_s is None:
            self._began_s = now
        self._sums[worker] = _Sum(self._left(worker, now) + amount, now)

    def of(self, worker: WorkerId, now: float) -> float:
        """What it is given per second. Of seconds of work: the part of its time, more than 1 where it gets more than it can do."""
        left = self._left(worker, now)
        if not left or self._began_s is None:
            return 0.0
        seen_s = now - self._began_s + _BEGUN_S
        return left / (self._memory_s * (1.0 - math.exp(-seen_s / self._memory_s)))

    def mean(self, role: Role, view: View, now: float) -> float:
        """Of all workers with this role; as it was at most a tenth of a second ago, as it changes in seconds."""
        at_s, found = self._means.get(role, (-math.inf, 0.0))
        if not at_s <= now < at_s + _FRESH_S:
            parts = [self.of(worker, now) for worker in pool_of(view, role)]
            found = sum(parts) / len(parts)
            self._means[role] = now, found
        return found

    def forget(self, worker: WorkerId) -> None:
        """The worker is gone."""
        self._sums.pop(worker, None)
        self._means.clear()

    def _left(self, worker: WorkerId, now: float) -> float:
        found = self._sums.get(worker)
        return 0.0 if found is None else found.amount * math.exp((found.at_s - now) / self._memory_s)
