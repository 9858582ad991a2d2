"""One metric as the catalogue has it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LABELS = frozenset(
    {"app", "cause", "class", "decode", "kind", "outcome", "phase", "plan", "prefill", "quantity", "reason", "result", "role"}
    | {"source", "state", "tenant", "work", "worker"}
)
"""All there may be. Each has few values, or as many as there are workers; what clients choose freely is none of them."""


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Entry:
    """Raises ValueError for a name, labels or bounds that break the rules of the catalogue."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    when_it_moves: str
    """What to do then."""
    bounds: tuple[float, ...] = ()
    """Of a histogram's buckets: each holds what is at most as large."""

    def __post_init__(self) -> None:
        if not self.name.startswith("baton_"):
            raise ValueError(f"{self.name}: names begin with baton_")
        if (self.kind is Kind.COUNTER) != self.name.endswith("_total"):
            raise ValueError(f"{self.name}: counters, and nothing else, end in _total")
        if (self.kind is Kind.HISTOGRAM) != bool(self.bounds) or list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError(f"{self.name}: histograms, and nothing else, have bounds, in order")
        if unknown := set(self.labels) - LABELS:
            raise ValueError(f"{self.name}: {', '.join(sorted(unknown))} is no label; is it known to be bounded?")
        if not self.meaning or not self.when_it_moves:
            raise ValueError(f"{self.name}: say what it means, and what to do when it moves")


def counter(name: str, labels: tuple[str, ...], meaning: str, when_it_moves: str) -> Entry:
    return Entry(name, Kind.COUNTER, labels, meaning, when_it_moves)


def gauge(name: str, labels: tuple[str, ...], meaning: str, when_it_moves: str) -> Entry:
    return Entry(name, Kind.GAUGE, labels, meaning, when_it_moves)


def histogram(name: str, labels: tuple[str, ...], bounds: tuple[float, ...], meaning: str, when_it_moves: str) -> Entry:
    return Entry(name, Kind.HISTOGRAM, labels, meaning, when_it_moves, bounds)
