"""How far things turned out from what was predicted, lately: the odds that something predicted to be in time will not be."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque

_NEWEST = 128
_KEPT_S = 60.0
"""Then it is tried again: who is never chosen has no other way to be found better."""


class Odds:
    """Of one kind of prediction: the newest ratios ``happened / predicted``."""

    def __init__(self) -> None:
        self._newest: deque[tuple[float, float]] = deque()
        self._ordered: list[float] = []

    def observe(self, predicted: float, happened: float, now: float) -> None:
        """It has happened. Predictions of nothing are none."""
        if predicted <= 0.0:
            return
        ratio = happened / predicted
        self._newest.append((now, ratio))
        insort(self._ordered, ratio)
        self._forget(now)

    def beyond(self, ratio: float, now: float) -> tuple[int, int]:
        """How many turned out to be more than ``ratio`` times what was predicted, and of how many."""
        self._forget(now)
        return len(self._ordered) - bisect_right(self._ordered, ratio), len(self._ordered)

    def _forget(self, now: float) -> None:
        while self._newest and (len(self._newest) > _NEWEST or self._newest[0][0] < now - _KEPT_S):
            _, ratio = self._newest.popleft()
            del self._ordered[bisect_left(self._ordered, ratio)]
