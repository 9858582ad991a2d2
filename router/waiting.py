"""One request that waits for a worker, and how urgent it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from core.ids import RequestId
from router.service import ORDINARY, WantedService


class Rank(IntEnum):
    """Who goes first."""

    HANDED_OFF = 0
    """Its prompt is computed, and blocks are kept for it meanwhile."""
    RESUMED = 1
    """Its client has tokens already, or it has lost a worker."""
    NEW = 2


class Takes(NamedTuple):
    """How long a request takes from the moment a worker gets it, as predicted where that is soonest. Rather too short than too long:
    nobody is given up for a prediction that errs."""

    prefill_s: float = 0.0
    """Until its first token."""
    answer_s: float = 0.0
    """From that to its last."""

    def first_due_s(self, wanted: WantedService) -> float | None:
        """By when, from its arrival, its first token has to be there, or what it is promised is lost; None when no time is promised."""
        in_time_s = None if wanted.deadline_s is None else wanted.deadline_s - self.answer_s
        return min((limit_s for limit_s in (wanted.ttft_s, in_time_s) if limit_s is not None), default=None)


UNKNOWN = Takes()
"""Nobody can tell yet."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request in the queue. ``tokens`` are those to be computed before it can go on."""

    request: RequestId
    rank: Rank
    tokens: int
    since_s: float
    until_s: float
    """When waiting any longer is pointless."""
    service: WantedService = ORDINARY
    takes: Takes = UNKNOWN
    counts_from_s: float | None = None
    """Since when its promises count, where that is not since it waits: there was nobody before who could have kept them."""
    held: bool = False
    """Nobody serves."""

    @property
    def counted_since_s(self) -> float:
        """Since when it waits for workers that could serve it."""
        return self.since_s if self.counts_from_s is None else max(self.since_s, self.counts_from_s)

    @property
    def due_s(self) -> float | None:
        """When its first token has to be there, or what it is promised is lost; None when no time is promised. Who is due first goes
        first: if any order keeps all promises, this one does. Less slack, which is this less its prefill, would put long prompts before
        those for whom there is no time any more behind them."""
        within_s = self.takes.first_due_s(self.service)
        return None if within_s is None else self.counted_since_s + within_s

    @property
    def start_by_s(self) -> float | None:
        """When a worker has to get it at the latest; None when no time is promised, or while nobody serves."""
        due_s = None if self.held else self.due_s
        return None if due_s is None else due_s - self.takes.prefill_s

    def is_late(self, now: float) -> bool:
        """Whether what it is promised is lost already, wherever it went now."""
        start_by_s = self.start_by_s
        return start_by_s is not None and start_by_s < now

    @property
    def order(self) -> tuple[int, float]:
        """Among those that are under way."""
        return (self.rank, self.since_s)
