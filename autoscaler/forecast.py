"""What a demand will be: three ways to say it, and the one that was right lately."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from statistics import median

import msgspec

from autoscaler.policy import ForecastName
from autoscaler.series import Series

_ENOUGH = 5
"""Points that a trend is drawn through, at least."""
_PAIRED = 30
"""And at most: each with each."""
_UNDER = 3.0
"""A forecast that is too low costs so many times as much as one that is too high: the one loses requests, the other idles workers."""
_MEMORY_S = 300.0
"""After which an error counts for a third; three horizons, where those are longer."""
_DUES = 60
"""Forecasts that wait to be checked: with starts of ten minutes and a plan every two seconds there would be hundreds to write down."""
_MOST_MARGIN = 0.25
"""Part of a forecast, and of its error. Nobody can be ready for what is as wrong as the first minutes of a burst."""


def last(series: Series, now_s: float, horizon_s: float, season_s: float | None) -> float | None:
    """As it is."""
    return series.last


def trend(series: Series, now_s: float, horizon_s: float, season_s: float | None) -> float | None:
    """On a line through the last minutes that bends back to level: never further from the last value than those went.

    Its slope is the one in the middle of all between two points (Theil and Sen's): a jump to another level is none.
    """
    points = series.recent[:: max(1, -(-len(series.recent) // _PAIRED))]
    if len(points) < _ENOUGH or series.last is None:
        return None
    slope = median((value - before) / (at_s - before_s) for (before_s, before), (at_s, value) in combinations(points, 2))
    bend_s = points[-1][0] - points[0][0]
    ahead = series.last + slope * bend_s * (1 - math.exp(-horizon_s / bend_s))
    values = [value for _, value in series.recent]
    return max(0.0, min(max(ahead, 2 * series.last - max(values)), 2 * series.last - min(values)))


def seasonal(series: Series, now_s: float, horizon_s: float, season_s: float | None) -> float | None:
    """As a season ago, plus what it is more or less now than the season says."""
    if season_s is None or series.last is None:
        return None
    then, today = series.seasonal(now_s + horizon_s, season_s), series.seasonal(now_s, season_s)
    return None if then is None or today is None else max(0.0, then + series.last - today)


METHODS: dict[str, Callable[[Series, float, float, float | None], float | None]] = {"last": last, "trend": trend, "seasonal": seasonal}
"""By name. Of two that are equally good the first one is asked."""


class Due(msgspec.Struct, frozen=True):
    """What every method said of a time to come."""

    at_s: float
    said: tuple[float | None, ...]


class Forecast(msgspec.Struct, frozen=True):
    """What a demand will be."""

    value: float
    """Without the margin."""
    margin: float
    """What to be ready for beside it."""
    method: str


class Track(msgspec.Struct, frozen=True):
    """A demand, and how right each method has been about it. Costs are of the newest forecasts that could be checked, as parts of what
    was said or came, whichever is more, and bounded: a burst that nobody foresaw does not outweigh all that was before and after it."""

    series: Series = Series()
    due: tuple[Due, ...] = ()
    costs: tuple[float | None, ...] = (None,) * len(METHODS)
    checked_s: float | None = None

    def seen(self, value: float, now_s: float, horizon_s: float, season_s: float | None, fits: bool = True) -> Track:
        """After one more value: forecasts for now are checked with it, and, where the last one is not quite new, others are made for
        ``horizon_s`` from now. ``fits``: see ``Series.plus``."""
        series = self.series.plus(value, now_s, max(60.0, 2 * horizon_s), season_s, fits)
        costs, checked_s = self.costs, self.checked_s
        for due in self.due:
            if due.at_s <= now_s:
                weight = 1.0 if checked_s is None else 1 - math.exp(-(now_s - checked_s) / max(_MEMORY_S, 3 * horizon_s))
                costs = tuple(_learnt(cost, said, value, weight) for cost, said in zip(costs, due.said, strict=True))
                checked_s = now_s
        ahead, at_s = tuple(due for due in self.due if due.at_s > now_s), now_s + horizon_s
        if not ahead or abs(at_s - ahead[-1].at_s) >= horizon_s / _DUES:
            ahead = (*ahead, Due(at_s, tuple(method(series, now_s, horizon_s, season_s) for method in METHODS.values())))
        return Track(series, ahead[-2 * _DUES :], costs, checked_s)

    def ahead(self, name: ForecastName, now_s: float, horizon_s: float, season_s: float | None, safety: float) -> Forecast:
        """By a method, or the best one; by the last value where the named one says nothing yet. 0 before any value."""
        known = {method: METHODS[method](self.series, now_s, horizon_s, season_s) for method in METHODS}
        costs = dict(zip(METHODS, self.costs, strict=True))
        chosen: str = name
        if name == "best":
            checked = {method: cost for method, cost in costs.items() if cost is not None and known[method] is not None}
            chosen = min(checked, key=lambda method: checked[method], default="last")
        value = known[chosen]
        if value is None:
            chosen, value = "last", self.series.last or 0.0
        # Of an error that is as often too low as too high, the cost is (1 + _UNDER) / 2 times its mean size.
        usual = (costs[chosen] or 0.0) / ((1 + _UNDER) / 2)
        return Forecast(value, min(safety * usual, _MOST_MARGIN) * value, chosen)


def _learnt(cost: float | None, said: float | None, value: float, weight: float) -> float | None:
    if said is None:
        return cost
    off = max(-_MOST_MARGIN, min((value - said) / max(value, said, 1e-9), _MOST_MARGIN))
    new = _UNDER * off if off > 0 else -off
    return new if cost is None else cost + weight * (new - cost)
