"""What a worker's report means for what the controller knows of it: events for its life. Pure."""

from __future__ import annotations

from cluster.lifecycle import Beat, Died, DrainAsked, EngineLoaded, Event, PhaseEntered, WorkerRecord
from cluster.spec import WorkerReport
from core.worker import WorkerState


def heard(record: WorkerRecord, report: WorkerReport, silence_s: float) -> list[Event]:
    """In the order in which they are to be applied. A worker whose loop has been stuck for ``silence_s`` has said nothing.

    Drained is a worker that says so; what a sleeping one says of drains is of the one it fell asleep by.
    """
    if report.failed is not None:
        return [Died(report.failed)]
    if report.card is None:
        return [PhaseEntered(report.phase)]
    is_draining, is_waking = report.draining_s is not None, record.waking_since_s is not None
    events: list[Event] = []
    if record.state is WorkerState.STARTING and not report.asleep and not (is_waking and is_draining):
        events.append(EngineLoaded(report.card))
    if report.draining_s is not None and not is_waking and not report.asleep and record.state is not WorkerState.SLEEPING:
        events.append(DrainAsked(report.draining_s))  # by itself, when its process was told to end; or before this controller's time
    if report.stuck_s < silence_s:
        events.append(Beat(report.load, report.idle, is_draining, report.asleep, report.card.role))
    return events
