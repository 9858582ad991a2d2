"""How fast a queue drains: what the workers can do, as against what they happen to be asked."""

from __future__ import annotations

import math
from collections import deque

_ENOUGH = 3
"""Requests that must have been served before two or three seconds say anything."""


class DrainRate:
    """Tokens per second that are served while somebody waits, or has waited and is not served yet.

    Other time does not count. The last ``window_s`` busy seconds do, also over gaps, unless the last of them is longer ago than
    ``forget_s``.
    """

    def __init__(self, window_s: float = 10.0, forget_s: float = 60.0) -> None:
        self._window_s = window_s
        self._forget_s = forget_s
        self._served: deque[tuple[float, int]] = deque()
        """When, in busy seconds, and how much."""
        self._tokens = 0
        self._counted_s = 0.0
        self._since_s: float | None = None
        self._ended_s = -math.inf

    def busy(self, now: float) -> None:
        """Somebody waits from now on, or still does."""
        if self._since_s is not None:
            return
        if now - self._ended_s > self._forget_s:
            self._served.clear()
            self._tokens, self._counted_s = 0, 0.0
        self._since_s = now

    def idle(self, now: float) -> None:
        """All who waited are served or gone."""
        self._counted_s = self._seconds(now)
        self._since_s, self._ended_s = None, now

    def served(self, tokens: int, now: float) -> None:
        """A worker has begun to answer one that waited."""
        self._served.append((self._seconds(now), tokens))
        self._tokens += tokens

    def per_second(self, now: float, next_tokens: float) -> float | None:
        """As if a request of ``next_tokens`` were served right now, or a queue where all take long would seem to stand still for
        ever. None while there is too little to go by: a second, and some that were served, or a whole window."""
        seconds = self._seconds(now)
        while self._served and self._served[0][0] < seconds - self._window_s:
            self._tokens -= self._served.popleft()[1]
        if seconds < 1.0 or (len(self._served) < _ENOUGH and seconds < self._window_s):
            return None
        return (self._tokens + next_tokens) / min(seconds, self._window_s)

    def _seconds(self, now: float) -> float:
        return self._counted_s + (0.0 if self._since_s is None else now - self._since_s)
