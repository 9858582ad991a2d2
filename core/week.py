"""Hours of days of the week."""

from __future__ import annotations

from collections.abc import Collection

DAY_MINUTES = 24 * 60


def minutes_of(clock: str) -> int:
    """Minutes since midnight of ``HH:MM``. Raises ValueError."""
    hours, _, minutes = clock.partition(":")
    if not (hours.isdigit() and minutes.isdigit() and len(minutes) == 2 and int(minutes) < 60):
        raise ValueError(f"a time of day is HH:MM, e.g. 07:30; this is {clock!r}")
    return int(hours) * 60 + int(minutes)


def holds(start: str, end: str, days: Collection[int], day: int, minute: int) -> bool:
    """Whether a minute of a day, 0 being Monday, is between the two on one of ``days``.

    An ``end`` that is not later than ``start`` is on the day after; ``days`` are those on which it starts."""
    first, last = minutes_of(start), minutes_of(end)
    if first < last:
        return day in days and first <= minute < last
    began_yesterday = minute < last and (day - 1) % 7 in days
    return began_yesterday or (day in days and first <= minute < DAY_MINUTES)
