"""How much of a worker's time goes into prompts: what a request that decodes there shares it with, now and later."""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.ids import WorkerId
from core.worker import Role
from router.plan import View

_MEMORY_S = 10.0
_FRESH_S = 0.1
_BEGUN_S = 1.0
"""So much time counts as gone from the beginning: one prompt in the first millisecond is no sign of a full load."""


@dataclass(slots=True)
class _Sum:
    seconds: float
    at_s: float


class PrefillShare:
    """An exponentially fading sum of predicted prefill seconds per worker, as a part of the time it is of."""

    def __init__(self, memory_s: float = _MEMORY_S) -> None:
        self._memory_s = memory_s
        self._sums: dict[WorkerId, _Sum] = {}
        self._began_s: float | None = None
        self._means: dict[Role, tuple[float, float]] = {}

    def took(self, worker: WorkerId, prefill_s: float, now: float) -> None:
        """The worker was given a prompt that will take so long."""
        if self._began_s is None:
            self._began_s = now
        self._sums[worker] = _Sum(self._left_s(worker, now) + prefill_s, now)

    def of(self, worker: WorkerId, now: float) -> float:
        """The part of its time, from 0; more than 1 where it gets more than it can do."""
        left_s = self._left_s(worker, now)
        if not left_s or self._began_s is None:
            return 0.0
        seen_s = now - self._began_s + _BEGUN_S
        return left_s / (self._memory_s * (1.0 - math.exp(-seen_s / self._memory_s)))

    def mean(self, role: Role, view: View, now: float) -> float:
        """Of all workers with this role; as it was at most a tenth of a second ago, as it changes in seconds."""
        at_s, found = self._means.get(role, (-math.inf, 0.0))
        if not at_s <= now < at_s + _FRESH_S:
            parts = [self.of(worker, now) for worker, seen in view.items() if seen.card.role is role]
            found = sum(parts) / len(parts)
            self._means[role] = now, found
        return found

    def forget(self, worker: WorkerId) -> None:
        """The worker is gone."""
        self._sums.pop(worker, None)
        self._means.clear()

    def _left_s(self, worker: WorkerId, now: float) -> float:
        found = self._sums.get(worker)
        return 0.0 if found is None else found.seconds * math.exp((found.at_s - now) / self._memory_s)
