"""What the scaler is told of workers, from what the controller knows of them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from autoscaler.signals import Phase, WorkerSignal
from cluster.lifecycle import WorkerRecord
from cluster.membership import usefulness
from cluster.spec import WorkerReport
from core.ids import WorkerId
from core.worker import Role, WorkerState

PRESENT = frozenset({WorkerState.STARTING, WorkerState.READY})
"""States of those that count as one of their pool."""
_NOTHING = WorkerReport("")


def worker_signals(
    records: Iterable[WorkerRecord],
    reports: Mapping[WorkerId, WorkerReport],
    wanted: Mapping[Role, int],
    is_outgoing: Callable[[WorkerRecord], bool],
    found: Collection[WorkerId],
    now_s: float,
) -> tuple[WorkerSignal, ...]:
    """As many present workers of each role as are wanted: who is decided on is not decided on again.

    Those that are still to be created are starting ones without a process. Those beyond the number are leaving, though nobody has told
    them yet: those that will be, the least useful first. Of workers that were ``found``, nobody knows how long they took.
    """
    signals: list[WorkerSignal] = []
    alive: dict[Role, list[WorkerRecord]] = defaultdict(list)
    for record in records:
        if record.state in PRESENT:
            alive[record.role].append(record)
        elif record.state is not WorkerState.GONE:
            signals.append(_signal(record, Phase(record.state.value), is_outgoing(record), reports, found, now_s))
    for role, count in wanted.items():
        here = sorted(alive[role], key=lambda record: usefulness(record, is_outgoing(record)), reverse=True)
        signals += [_signal(record, Phase(record.state.value), is_outgoing(record), reports, found, now_s) for record in here[:count]]
        signals += [_signal(record, Phase.DRAINING, is_outgoing(record), reports, found, now_s) for record in here[count:]]
        signals += [WorkerSignal(asked_for(role, number), role, Phase.STARTING) for number in range(len(here), count)]
    return tuple(signals)


def asked_for(role: Role, number: int) -> WorkerId:
    """The name of one that has none yet."""
    return WorkerId(f"{role}-asked-for-{number}")


def _signal(
    record: WorkerRecord,
    phase: Phase,
    outgoing: bool,
    reports: Mapping[WorkerId, WorkerReport],
    found: Collection[WorkerId],
    now_s: float,
) -> WorkerSignal:
    report = reports.get(record.worker, _NOTHING)
    return WorkerSignal(
        record.worker,
        record.role,
        phase,
        now_s - record.created_at_s,
        None if record.card is None else record.card.facts,
        report.measured,
        report.measured is not None,
        None if record.worker in found else record.ready_after_s,
        report.load.running + report.load.waiting,
        outgoing,
    )
