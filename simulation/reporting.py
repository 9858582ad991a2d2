"""Makes the report of a simulation that has ended."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from autoscaler.plan import Add, Drain, Relabel
from core.metrics.words import Why
from core.worker import Role
from router.reason import why_of
from router.service import WantedService
from simulation.course import Course, Moment
from simulation.elastic import ElasticCluster
from simulation.record import Record
from simulation.report import Scaling, Slice, Spread


def spread(values: Iterable[float]) -> Spread:
    """Percentiles are of the nearest rank."""
    ordered = sorted(values)
    if not ordered:
        return Spread(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    p50, p90, p95, p99 = (percentile(ordered, part) for part in (0.5, 0.9, 0.95, 0.99))
    return Spread(len(ordered), sum(ordered) / len(ordered), p50, p90, p95, p99, ordered[-1])


def percentile(ordered: Sequence[float], part: float) -> float:
    """Of at least one value."""
    return ordered[round(part * (len(ordered) - 1))]


def is_good(record: Record, service: WantedService) -> bool:
    """Whether a request was served as promised."""
    ttft_s, tpot_s = record.ttft_s, record.tpot_s
    in_time = service.ttft_s is None or (ttft_s is not None and ttft_s <= service.ttft_s)
    return record.is_complete and in_time and (service.tpot_s is None or tpot_s is None or tpot_s <= service.tpot_s)


def failures(records: Iterable[Record]) -> tuple[dict[str, int], dict[str, int]]:
    """How many were refused, by reason, and how many given up, by what was said."""
    refused: Counter[str] = Counter()
    given_up: Counter[str] = Counter()
    for record in records:
        if record.failure:
            why = why_of(record.failure)
            if why is Why.OTHER:
                given_up[str(record.failure)] += 1
            else:
                refused[str(why)] += 1
    return dict(refused.most_common()), dict(given_up.most_common())


def scaling_of(cluster: ElasticCluster) -> Scaling:
    """What its plans had done."""
    actions = [action for plan in cluster.plans if not plan.dry_run for action in plan.actions]
    return Scaling(
        plans=len(cluster.plans),
        relabelled=sum(isinstance(action, Relabel) for action in actions),
        added=sum(action.count for action in actions if isinstance(action, Add)),
        drained=sum(isinstance(action, Drain) for action in actions),
    )


def slices(records: Sequence[Record], moments: Sequence[Moment], service: WantedService) -> list[Slice]:
    """One per moment but the first. ``records`` are in order of arrival."""
    arrivals_s = [record.arrival_s for record in records]
    made: list[Slice] = []
    for before, moment in pairwise(moments):
        mine = records[bisect_left(arrivals_s, before.at_s) : bisect_left(arrivals_s, moment.at_s)]
        ttft_s = sorted(record.ttft_s for record in mine if record.ttft_s is not None)
        p50_s, p90_s, p99_s = (percentile(ttft_s, part) if ttft_s else None for part in (0.5, 0.9, 0.99))
        good, failed = sum(is_good(record, service) for record in mine), sum(bool(record.failure) for record in mine)
        made.append(
            Slice(moment.at_s, len(mine), good, failed, p50_s, p90_s, p99_s, moment.waiting, moment.open, moment.workers, moment.busy)
        )
    return made


def busy_parts(course: Course) -> dict[str, float]:
    """Of the time that workers of each role were there. Who changes roles counts for where it was."""
    there_s = {str(role): 0.0 for role in Role}
    for before, moment in pairwise(course.moments):
        for role, count in moment.workers.items():
            there_s[role] += count * (moment.at_s - before.at_s)
    return {role: course.busy_s[role] / seconds if seconds else 0.0 for role, seconds in there_s.items()}
