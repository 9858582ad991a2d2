"""One request that waits for a worker, and how urgent it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from core.ids import RequestId
from router.service import ORDINARY, WantedService


class Rank(IntEnum):
    """Who goes first."""

    HANDED_OFF = 0
    """Its prompt is computed, and blocks are kept for it meanwhile."""
    RESUMED = 1
    """Its client has tokens already, or it has lost a worker."""
    NEW = 2


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
    prefill_s: float = 0.0
    """From the moment a worker gets it to its first token, as predicted where it would be soonest. Rather too short than too long:
    a request is not given up for a prediction that errs."""
    answer_s: float = 0.0
    """From its first token to its last, likewise."""
    counts_from_s: float | None = None
    """Since when its promises count, where that is not since it waits: there was nobody before who could have kept them."""
    held: bool = False
    """Nobody serves."""

    @property
    def counted_since_s(self) -> float:
        """Since when it waits for workers that could serve it."""
        return self.since_s if self.counts_from_s is None else max(self.since_s, self.counts_from_s)

    @property
    def start_by_s(self) -> float | None:
        """When a worker has to get it, or what it is promised is lost; None when no time is promised. Its slack is this less now, so
        the order by slack is the order by this, and does not change as time goes by."""
        wanted = self.service
        ttft = None if wanted.ttft_s is None else wanted.ttft_s - self.prefill_s
        deadline = None if wanted.deadline_s is None else wanted.deadline_s - self.prefill_s - self.answer_s
        within_s = min((limit_s for limit_s in (ttft, deadline) if limit_s is not None), default=None)
        return None if within_s is None else self.counted_since_s + within_s

    def is_late(self, now: float) -> bool:
        """Whether what it is promised is lost already, wherever it went now."""
        start_by_s = self.start_by_s
        return not self.held and start_by_s is not None and start_by_s < now

    @property
    def order(self) -> tuple[int, float]:
        """Among those that are under way."""
        return (self.rank, self.since_s)
