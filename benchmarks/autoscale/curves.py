"""Promises kept against worker-hours: what a rival does at any setting between those it was tried at, and which of them is the best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.autoscale.fleet import Setup
from benchmarks.autoscale.runs import Found

Point = tuple[float, float]
"""Worker-hours, and the share of promises kept."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Ours, against everybody else."""

    ours: Setup
    found: Mapping[Setup, Found]

    @property
    def kinds(self) -> dict[str, list[Point]]:
        """The rivals' points, by scaler."""
        kinds: dict[str, list[Point]] = {}
        for setup, each in self.found.items():
            if setup.scaler != self.ours.scaler:
                kinds.setdefault(setup.scaler, []).append((each.worker_hours, each.attained))
        return kinds

    @property
    def cheapest(self) -> tuple[str, float] | None:
        """The rival that keeps as many promises as ours with the fewest worker-hours, and those; None where nobody keeps as many."""
        attained = self.found[self.ours].attained
        hours = {kind: spent for kind, points in self.kinds.items() if (spent := hours_for(points, attained)) is not None}
        return min(hours.items(), key=lambda item: item[1], default=None)

    @property
    def best(self) -> tuple[str, float] | None:
        """The rival that keeps most promises with no more worker-hours than ours, and its share; None where all take more."""
        hours = self.found[self.ours].worker_hours
        shares = {kind: share for kind, points in self.kinds.items() if (share := attained_with(points, hours)) is not None}
        return max(shares.items(), key=lambda item: item[1], default=None)

    @property
    def saved(self) -> float | None:
        """Part of the cheapest rival's worker-hours that ours does without; None where it has none to be held against."""
        return None if self.cheapest is None else 1 - self.found[self.ours].worker_hours / self.cheapest[1]

    @property
    def gained(self) -> float | None:
        """What ours keeps more than the best rival; None likewise."""
        return None if self.best is None else self.found[self.ours].attained - self.best[1]

    @property
    def meets_target(self) -> bool:
        """Ten points more at equal worker-hours, or a fifth fewer of these at equal promises. What nobody was there to be held against
        is nothing met."""
        return (self.saved or 0.0) >= 0.2 or (self.gained or 0.0) >= 0.1

    @property
    def deciding(self) -> list[Setup]:
        """The settings that ``cheapest`` and ``best`` lie between, at most four."""
        chosen: list[Setup] = []
        for verdict, level in ((self.cheapest, 1), (self.best, 0)):
            if verdict is None:
                continue
            ours = (self.found[self.ours].worker_hours, self.found[self.ours].attained)[level]
            points = {setup: (each.worker_hours, each.attained) for setup, each in self.found.items() if setup.scaler == verdict[0]}
            chosen += sorted(points, key=lambda setup: abs(points[setup][level] - ours))[:2]
        return list(dict.fromkeys(chosen))


def hours_for(points: Iterable[Point], attained: float) -> float | None:
    """Worker-hours with which a rival attains so much, on straight lines between its settings; None where none of them does."""
    return min((hours for hours, share in _filled(points) if share >= attained - 1e-9), default=None)


def attained_with(points: Iterable[Point], hours: float) -> float | None:
    """What a rival attains with at most so many worker-hours; None where all its settings take more."""
    return max((share for spent, share in _filled(points) if spent <= hours + 1e-9), default=None)


def frontier(points: Iterable[Point]) -> list[Point]:
    """Those that no other one beats: each keeps more promises than all with fewer hours. A setting that nobody would choose does not
    come between two good ones."""
    chosen: list[Point] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not chosen or point[1] > chosen[-1][1]:
            chosen.append(point)
    return chosen


def _filled(points: Iterable[Point]) -> list[Point]:
    """The best points, and a hundred between each and the next one with more hours."""
    ordered = frontier(points)
    filled = list(ordered)
    for (hours, share), (next_hours, next_share) in pairwise(ordered):
        filled += [(hours + (next_hours - hours) * part / 100, share + (next_share - share) * part / 100) for part in range(1, 100)]
    return filled
