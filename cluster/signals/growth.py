"""How much the counters of one process have grown, and when. Pure; told the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import pairwise

from cluster.signals.scrape import Series

Counters = Mapping[str, Mapping[Series, float]]
"""By whose total they belong to."""


class Growth:
    """Totals since the first scrape, whose own numbers are the beginning: what was counted before it belongs to another time.

    A counter that has fallen has begun anew, and one that was not there before has begun: both count from 0. One that is there no more
    is forgotten, and its total keeps what it had.
    """

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._last: Counters | None = None
        self._points: deque[tuple[float, dict[str, float]]] = deque()

    @property
    def heard_s(self) -> float | None:
        """When it was last scraped."""
        return self._points[-1][0] if self._points else None

    def heard(self, counters: Counters, now_s: float) -> None:
        """One more scrape."""
        totals, last = dict(self._points[-1][1]) if self._points else {}, self._last
        if last is not None:
            for total, series in counters.items():
                totals[total] = totals.get(total, 0.0) + _grown(last.get(total, {}), series)
        self._last = counters
        self._points.append((now_s, totals))
        # One point before the window stays: between it and the next lies the window's beginning.
        while len(self._points) > 2 and self._points[1][0] <= now_s - self._keep_s:
            self._points.popleft()

    def since(self, total: str, since_s: float) -> float:
        """By how much a total has grown; on a straight line between two scrapes."""
        if not self._points or since_s >= self._points[-1][0]:
            return 0.0
        return self._points[-1][1].get(total, 0.0) - self._at(total, since_s)

    def _at(self, total: str, at_s: float) -> float:
        first_s, first = self._points[0]
        if at_s <= first_s:
            return first.get(total, 0.0)
        for (before_s, before), (after_s, after) in pairwise(self._points):
            if at_s <= after_s:
                low, high = before.get(total, 0.0), after.get(total, 0.0)
                return low + (high - low) * (at_s - before_s) / (after_s - before_s)
        raise AssertionError("a time after the last scrape was asked for")


def _grown(before: Mapping[Series, float], now: Mapping[Series, float]) -> float:
    return sum(value - was if value >= (was := before.get(series, 0.0)) else value for series, value in now.items())
