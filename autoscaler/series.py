"""What a demand was: every point of the last minutes, and means over parts of a season before that."""

from __future__ import annotations

import math

import msgspec

from autoscaler.seasonal import season_ahead

PARTS = 96
"""Parts of a season: quarters of an hour, of a day."""
_SEASONS = 4
"""That are remembered."""
_POINTS = 120


class Series(msgspec.Struct, frozen=True):
    """Made longer by ``plus``. All tuples are in order of time."""

    recent: tuple[tuple[float, float], ...] = ()
    """Time and value."""
    parts: tuple[float, ...] = ()
    """Means over whole parts of a season, the last one before ``part``."""
    part: int = -1
    """The number of the part that is not over, since 1970."""
    part_sum: float = 0.0
    part_count: int = 0
    path: tuple[float, ...] = ()
    """What the parts from ``part`` on will be, by the season; empty until two seasons are known."""
    unfitted: bool = False
    """Whether ``path`` is older than ``parts``."""

    @property
    def last(self) -> float | None:
        """The newest value."""
        return self.recent[-1][1] if self.recent else None

    def plus(self, value: float, now_s: float, window_s: float, season_s: float | None, fits: bool = True) -> Series:
        """With one more. Points older than ``window_s`` are forgotten. Where a part of the season has ended, the season is fitted anew,
        if it ``fits``, or else the next time: that takes ten milliseconds, and the first time it loads a library, which takes seconds."""
        kept = [point for point in self.recent[-_POINTS + 1 :] if now_s - window_s <= point[0] < now_s]
        recent = (*kept, (now_s, value))
        if season_s is None:
            return Series(recent)
        part = math.floor(now_s / (season_s / PARTS))
        if part == self.part:
            total, count = self.part_sum + value, self.part_count + 1
            made = msgspec.structs.replace(self, recent=recent, part_sum=total, part_count=count)
        else:
            parts = self._closed(part)
            path = self.path[part - self.part :] if parts else ()  # as it was foreseen, until it is fitted
            made = Series(recent, parts, part, value, 1, path, bool(parts))
        if made.unfitted and fits:
            made = msgspec.structs.replace(made, path=season_ahead(made.parts, PARTS), unfitted=False)
        return made

    def _closed(self, part: int) -> tuple[float, ...]:
        """All parts before ``part``. Of those nobody looked at, the last mean is the best guess; too many of them, and it begins anew."""
        if self.part == -1 or not self.part_count or not 0 < part - self.part <= PARTS // 4:
            return ()
        mean = self.part_sum / self.part_count
        return (*self.parts, *[mean] * (part - self.part))[-PARTS * _SEASONS :]

    def seasonal(self, at_s: float, season_s: float) -> float | None:
        """What the season says of a time, on straight lines between the middles of parts; None where it says nothing."""
        if not self.path:
            return None
        place = at_s / (season_s / PARTS) - self.part - 0.5
        before = math.floor(place)
        if before + 1 >= len(self.path):
            return None
        early = self.path[before] if before >= 0 else self.parts[-1]
        return early + (self.path[before + 1] - early) * (place - before)
