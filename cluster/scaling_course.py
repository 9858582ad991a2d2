"""How demand, what was expected of it, and capacity went, for a drawing: long enough that a forecast's time comes. Pure."""

from __future__ import annotations

from collections import deque

import msgspec

from autoscaler.plan import Plan, PoolReport

MOST_POINTS = 90
"""Of each pool."""
_SHORTEST_S = 180.0
_HORIZONS = 3.0


class Point(msgspec.Struct, frozen=True):
    """One pool when one plan was made. Tokens per second; None: not known then."""

    at: float
    """Unix time."""
    role: str
    demand: float | None
    forecast: float | None
    forecast_at: float
    """Unix time for which that was expected."""
    capacity: float | None
    """What its ready workers do at most within the objective."""


class Course:
    """Told of every plan. Covers three minutes at least, and three times as long as workers take to start: so far ahead forecasts look."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, list[Point]]] = deque()

    def planned(self, plan: Plan) -> None:
        """The next one. Of those too close together for the time they cover, the newest stands for all."""
        span_s = max(_SHORTEST_S, *(_HORIZONS * (pool.horizon_s or 0.0) for pool in plan.pools))
        while self._kept and not plan.at_s - span_s <= self._kept[0][0] <= plan.at_s:
            self._kept.popleft()
        if len(self._kept) > 1 and self._kept[-1][0] - self._kept[-2][0] < span_s / MOST_POINTS:
            self._kept.pop()
        self._kept.append((plan.at_s, [_point(plan.at_s, pool) for pool in plan.pools]))

    @property
    def points(self) -> list[Point]:
        """The oldest first."""
        return [point for _, points in self._kept for point in points]


def _point(at_s: float, pool: PoolReport) -> Point:
    capacity = None if pool.worker_tokens_per_s is None else pool.ready * pool.worker_tokens_per_s
    then_s = at_s + (pool.horizon_s or 0.0)
    return Point(at_s, str(pool.role), pool.demand_tokens_per_s, pool.forecast_tokens_per_s, then_s, capacity)
