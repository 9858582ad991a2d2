"""Counters, gauges and histograms while they are fed. Values by labels; one thread; nothing here knows Prometheus.

Not prometheus_client's own: those take a lock, look labels up and walk through the buckets each time, 1.5 us where this takes 0.2
(``benchmarks/metrics.py``), and there is one for every token of every stream. And what is gone can be forgotten here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from core.metrics.entry import Entry

OTHER = "other"
"""The value of every label of whatever is beyond the bound."""
MOST = 4096
"""Sets of labels of one metric at most, whatever the labels are. A set takes 6 us of every scrape, in one go."""
MOST_PAIRS = 1024
"""Of metrics by pairs of workers. There may be a million."""
_EXPECTED_PART = 4
"""One in so many of those may be there before anything has happened."""


class Sum:
    """One value."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Exemplar(NamedTuple):
    """One value that was observed, and the trace that tells how it came about."""

    value: float
    trace_id: str
    unix_s: float


class Spread:
    """How many values were at most as large as each bound, beyond the one before; the last count is of those beyond all bounds."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}
        """The newest of each bucket that has one, by the place of its count."""

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def exemplify(self, value: float, trace_id: str, unix_s: float) -> None:
        """A value that was observed has a trace."""
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(value, trace_id, unix_s)


Cell = TypeVar("Cell", Sum, Spread)


class Family(Generic[Cell]):
    """The cells of one metric by the values of its labels, in the catalogue's order. What is fed often keeps its cell."""

    def __init__(self, entry: Entry, make: Callable[[], Cell], most: int = MOST) -> None:
        self.entry = entry
        self.cells: dict[tuple[str, ...], Cell] = {}
        self._make: Callable[[], Cell] = make
        self._most = most

    def cell(self, *labels: str) -> Cell:
        """The cell of these labels; beyond the bound it is that of all others."""
        cell = self.cells.get(labels)
        return cell if cell is not None else self._new(labels)

    def expect(self, *labels: str) -> bool:
        """Shows what may come as zero: a rate needs that before the first one. False, and nothing is shown, once so many are there that
        what really comes might find no place."""
        if labels in self.cells:
            return True
        if len(self.cells) >= self._most // _EXPECTED_PART:
            return False
        self._new(labels)
        return True

    def forget(self, label: str, value: str) -> None:
        """Whatever has this value of this label is gone."""
        place = self.entry.labels.index(label)
        for labels in [labels for labels in self.cells if labels[place] == value]:
            del self.cells[labels]

    def _new(self, labels: tuple[str, ...]) -> Cell:
        if len(labels) != len(self.entry.labels):
            raise ValueError(f"{self.entry.name} has the labels {self.entry.labels}, not {labels}")
        if len(self.cells) >= self._most:
            labels = (OTHER,) * len(labels)
        return self.cells.setdefault(labels, self._make())


class Counts(Family[Sum]):
    """A counter. ``known`` sets of labels are there from the beginning: a rate needs the zero before the first one."""

    def __init__(self, entry: Entry, known: Iterable[tuple[str, ...]] = (), most: int = MOST) -> None:
        super().__init__(entry, Sum, most)
        for labels in known if entry.labels else [()]:
            self.cell(*labels)

    def add(self, *labels: str, by: float = 1.0) -> None:
        self.cell(*labels).value += by


class Levels(Family[Sum]):
    """A gauge."""

    def __init__(self, entry: Entry, most: int = MOST) -> None:
        super().__init__(entry, Sum, most)

    def set(self, value: float, *labels: str) -> Levels:
        self.cell(*labels).value = value
        return self


class Spreads(Family[Spread]):
    """A histogram."""

    def __init__(self, entry: Entry, known: Iterable[tuple[str, ...]] = (), most: int = MOST) -> None:
        super().__init__(entry, lambda: Spread(entry.bounds), most)
        for labels in known if entry.labels else [()]:
            self.cell(*labels)

    def observe(self, value: float, *labels: str) -> None:
        self.cell(*labels).observe(value)

    def exemplify(self, value: float, trace_id: str, unix_s: float, *labels: str) -> None:
        """A value that was observed has a trace."""
        self.cell(*labels).exemplify(value, trace_id, unix_s)


Reading = Counts | Levels | Spreads
