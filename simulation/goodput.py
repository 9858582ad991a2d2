"""Goodput: which requests were served as promised, and up to which rate nearly all are.

A request is good if its TTFT, from arrival, and its mean TPOT both meet the objective. Refused and failed ones are misses, so
dropping late requests gains nothing; and arrivals are open-loop, so being slow does not lower the load. The mean TPOT can hide
a pause, so the same share is told for a deadline per token, ``arrival + TTFT + i * TPOT``, and, of each request's longest gap between
two tokens, the mean over the worst tenth of the requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from simulation.record import Record

SHARE = 0.9
"""Of the offered requests that have to be good."""
WARM_UP = 0.1
TAIL = 0.05
"""Parts of a run, by arrivals, that are offered and served but not counted: at first caches are empty and nobody waits yet, and behind
the last arrival there is less and less load."""
_QUANTILES = 100


class Objective(msgspec.Struct, frozen=True):
    """What every request is promised."""

    ttft_s: float
    tpot_s: float

    def is_met(self, record: Record) -> bool:
        """Whether the request was good."""
        ttft_s, tpot_s = record.ttft_s, record.tpot_s
        return record.is_complete and ttft_s is not None and ttft_s <= self.ttft_s and (tpot_s is None or tpot_s <= self.tpot_s)

    def is_met_by_each_token(self, record: Record) -> bool:
        """Whether no token came after its own deadline."""
        late_s = record.lateness_s(self.tpot_s)
        return record.is_complete and late_s is not None and late_s <= self.ttft_s


class Outcome(msgspec.Struct, frozen=True):
    """One run, counted. Quantiles are of requests that got so far: 0 %, 1 %, ... 100 %."""

    rate: float
    """Offered requests per second, counted ones."""
    offered: int
    good: int
    good_by_token: int
    """By each token's own deadline."""
    failed: int
    """Refused, or given up."""
    late_ttft: int
    """Served, with only the first token late."""
    late_tpot: int
    late_both: int
    worst_gaps_s: float
    """The longest gap between two tokens of a request, mean over the worst tenth of the requests."""
    ttft_s: list[float]
    tpot_s: list[float]
    hit_share: float
    """Prompt tokens found in a cache, of those computed."""
    split_share: float
    """Requests whose prefill and decode were on different workers."""

    @property
    def share(self) -> float:
        """Good ones of those offered."""
        return self.good / self.offered

    @property
    def good_per_s(self) -> float:
        """Good requests per second."""
        return self.rate * self.share


def outcome(records: Sequence[Record], objective: Objective) -> Outcome:
    """Counts a run that has ended; ``records`` are all it was offered, in order of arrival."""
    counted = records[round(len(records) * WARM_UP) : round(len(records) * (1 - TAIL))]
    served = [record for record in counted if record.is_complete]
    late = [_late(record, objective) for record in served]
    began_s, ended_s = counted[0].arrival_s, counted[-1].arrival_s
    return Outcome(
        rate=(len(counted) - 1) / (ended_s - began_s) if ended_s > began_s else 0.0,
        offered=len(counted),
        good=sum(objective.is_met(record) for record in counted),
        good_by_token=sum(objective.is_met_by_each_token(record) for record in counted),
        failed=len(counted) - len(served),
        late_ttft=late.count((True, False)),
        late_tpot=late.count((False, True)),
        late_both=late.count((True, True)),
        worst_gaps_s=worst(record.longest_gap_s for record in served if record.longest_gap_s is not None),
        ttft_s=quantiles(record.ttft_s for record in counted if record.ttft_s is not None),
        tpot_s=quantiles(record.tpot_s for record in served if record.tpot_s is not None),
        hit_share=sum(record.cached_tokens for record in served) / max(1, sum(record.request.prompt_tokens for record in served)),
        split_share=sum(bool(record.was_split) for record in served) / max(1, len(served)),
    )


def goodput(outcomes: Iterable[tuple[float, float]], share: float = SHARE) -> float | None:
    """The rate up to which at least ``share`` are good, from (rate, share) of a sweep; on the line between the last point before the
    first that misses and that one. None: the slowest misses already. The fastest rate, if none misses: it was not found."""
    met: tuple[float, float] | None = None
    for rate, reached in sorted(outcomes):
        if reached < share:
            return None if met is None else met[0] + (rate - met[0]) * (met[1] - share) / (met[1] - reached)
        met = rate, reached
    return None if met is None else met[0]


def worst(values: Iterable[float], part: float = 0.1) -> float:
    """The mean of the largest tenth, at least of one; 0 without any."""
    ordered = sorted(values, reverse=True)
    taken = ordered[: max(1, round(part * len(ordered)))]
    return sum(taken) / len(taken) if taken else 0.0


def quantiles(values: Iterable[float]) -> list[float]:
    """The values at 0 %, 1 %, ... 100 %; empty for none."""
    ordered = sorted(values)
    return [ordered[round(part / _QUANTILES * (len(ordered) - 1))] for part in range(_QUANTILES + 1)] if ordered else []


def _late(record: Record, objective: Objective) -> tuple[bool, bool]:
    ttft_s, tpot_s = record.ttft_s, record.tpot_s
    return (ttft_s is not None and ttft_s > objective.ttft_s, tpot_s is not None and tpot_s > objective.tpot_s)
