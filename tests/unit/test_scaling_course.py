"""The course of demand and forecast that is drawn."""

from __future__ import annotations

import pytest

from autoscaler.plan import Plan, PoolReport
from cluster.scaling_course import MOST_POINTS, Course, Point
from core.worker import Role


def plan(at_s: float, horizon_s: float = 60.0) -> Plan:
    pool = PoolReport(
        Role.PREFILL, 2, 0, 2, demand_tokens_per_s=5.0, forecast_tokens_per_s=7.0, horizon_s=horizon_s, worker_tokens_per_s=4.0
    )
    return Plan(at_s, "baton", (pool,), ())


@pytest.mark.parametrize(("horizon_s", "every_s"), [(60.0, 0.5), (60.0, 2.0), (277.0, 2.0), (1200.0, 2.0), (5.0, 0.5)])
def test_the_time_of_a_forecast_comes(horizon_s: float, every_s: float) -> None:
    """However late that is and however many plans there are until then: demand is still drawn beside what was expected of it."""
    course, now_s = Course(), 0.0
    while now_s < 4 * horizon_s + 200.0:
        now_s += every_s
        course.planned(plan(now_s, horizon_s))
    points = course.points
    assert 0.4 * MOST_POINTS < len(points) <= MOST_POINTS + 2
    assert points[-1].at == now_s
    assert points == sorted(points, key=lambda point: point.at)
    came = [point for point in points if point.forecast_at <= now_s]
    assert len(came) > 0.5 * len(points)
    assert points[0].at <= came[-1].forecast_at


def test_a_point_is_what_a_plan_said() -> None:
    """The forecast belongs to the time it is for; capacity is what the ready workers do together, unknown where that is."""
    course = Course()
    course.planned(plan(1000.0))
    course.planned(Plan(1002.0, "baton", (PoolReport(Role.DECODE, 1, 0, 1),), (), held="nobody says"))
    assert course.points == [
        Point(1000.0, "prefill", 5.0, 7.0, 1060.0, 8.0),
        Point(1002.0, "decode", None, None, 1002.0, None),
    ]


def test_a_clock_that_is_set_back_begins_anew() -> None:
    """There are no points of a time to come."""
    course = Course()
    for at_s in (1000.0, 1010.0, 500.0):
        course.planned(plan(at_s))
    assert [point.at for point in course.points] == [500.0]
