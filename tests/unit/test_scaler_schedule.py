"""Limits by the hour."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from autoscaler.policy import Objective, PoolLimits, ScalerLimits, ScalerPolicy, Window
from autoscaler.schedule import limits_at
from core.worker import Role

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def at(clock: str, day: int = 0) -> float:
    """Unix time of a day of that week."""
    hours, minutes = clock.split(":")
    return MONDAY.replace(day=2 + day, hour=int(hours), minute=int(minutes)).timestamp()


def bounds(window: Window, now_s: float, role: Role = Role.DECODE, zone: str = "UTC") -> tuple[int, int]:
    found, _ = limits_at(ScalerLimits(PoolLimits(1, 16), PoolLimits(1, 16), windows=(window,), time_zone=zone), role, now_s)
    return found.min_workers, found.max_workers


@pytest.mark.parametrize(
    ("clock", "day", "holds"),
    [("07:59", 0, False), ("08:00", 0, True), ("17:59", 4, True), ("18:00", 4, False), ("12:00", 5, False)],
)
def test_hours_and_days(clock: str, day: int, holds: bool) -> None:
    """A window holds from its start up to, not including, its end, on its days."""
    window = Window("08:00", "18:00", frozenset(range(5)), min_workers=4)
    assert bounds(window, at(clock, day)) == ((4, 16) if holds else (1, 16))


@pytest.mark.parametrize(("clock", "day", "holds"), [("23:00", 0, True), ("05:59", 1, True), ("06:00", 1, False), ("23:00", 1, False)])
def test_over_midnight(clock: str, day: int, holds: bool) -> None:
    """One that ends before it starts ends on the next day; its days are those on which it starts."""
    assert bounds(Window("22:00", "06:00", frozenset({0}), max_workers=2), at(clock, day))[1] == (2 if holds else 16)


def test_of_one_role() -> None:
    """A window for one role leaves the other alone."""
    window = Window("00:00", "24:00", role=Role.PREFILL, min_workers=3)
    assert (bounds(window, at("12:00"), Role.PREFILL), bounds(window, at("12:00"))) == ((3, 16), (1, 16))


@pytest.mark.parametrize(("given", "found"), [({"min_workers": 20}, (20, 20)), ({"max_workers": 0}, (0, 0))])
def test_a_window_wins(given: dict[str, int], found: tuple[int, int]) -> None:
    """What it says is so, and the bound it does not name gives way."""
    assert bounds(Window("00:00", "24:00", **given), at("12:00")) == found  # type: ignore[arg-type]


def test_time_zones() -> None:
    """Hours are those of the configured place, summer time included."""
    window = Window("08:00", "09:00", min_workers=5)
    assert bounds(window, at("07:30"), zone="Europe/Berlin") == (5, 16)
    summer_s = datetime(2026, 7, 1, 6, 30, tzinfo=UTC).timestamp()
    assert bounds(window, summer_s, zone="Europe/Berlin") == (5, 16)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Window("8", "18:00"), "HH:MM"),
        (lambda: Window("08:00", "24:01"), "24:00"),
        (lambda: Window("08:00", "18:00", frozenset({7})), "Monday"),
        (lambda: PoolLimits(3, 2), "min_workers <= max_workers"),
        (lambda: PoolLimits(1, 2, 0.0), "part of a GPU"),
        (lambda: ScalerLimits(PoolLimits(3, 4), PoolLimits(3, 4), 5), "minimum of both pools needs 6"),
        (lambda: Objective(0.0, 0.1), "more than 0"),
        (lambda: ScalerPolicy(objective=Objective(1, 1), utilisation=1.0), "no end"),
    ],
)
def test_what_cannot_work_is_refused(make: object, rule: str) -> None:
    """When it is made, with the rule in the message."""
    with pytest.raises(ValueError, match=rule):
        make()  # type: ignore[operator]
