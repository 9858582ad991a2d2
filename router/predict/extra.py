"""What happens on top of what is predicted: the time that no model of an engine knows of."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

_NEWEST = 101


class Extra:
    """The newest of ``happened - predicted``, so that neither a stall nor a lucky one moves what most are. 0 before there are some."""

    def __init__(self, enough: int = 10) -> None:
        self._enough = enough
        self._newest: deque[float] = deque()
        self._ordered: list[float] = []

    def observe(self, predicted_s: float, happened_s: float) -> None:
        """``predicted_s`` without what ``late_s`` adds to it, or it would chase its own tail."""
        off_s = happened_s - predicted_s
        self._newest.append(off_s)
        insort(self._ordered, off_s)
        if len(self._newest) > _NEWEST:
            del self._ordered[bisect_left(self._ordered, self._newest.popleft())]

    @property
    def late_s(self) -> float:
        """What nine in ten do not exceed; below 0 where predictions are too long."""
        return self._ordered[len(self._ordered) * 9 // 10] if len(self._ordered) >= self._enough else 0.0
