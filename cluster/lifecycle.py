"""A worker's life as a pure state machine: events in the past tense come in, the new record and instructions come out.

(created) -> STARTING --EngineLoaded--> READY --DrainAsked--> DRAINING --Drained--> GONE
                 |                        |                      |
                 +--- Died, StartTimedOut, Silent, StopAsked ----+----------------> GONE
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from core.ids import Epoch, WorkerId
from core.worker import Role, WorkerCard, WorkerLoad, WorkerState

DIED_DRAINING = "died while draining"
"""Nobody wanted it any more, so nothing is replaced."""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """All the controller knows of one worker. ``spec_hash`` tells whether it was made from today's configuration."""

    worker: WorkerId
    role: Role
    epoch: Epoch
    spec_hash: str
    created_at_s: float
    state: WorkerState = WorkerState.STARTING
    phase: str = "starting"
    """What a starting worker is at, in its own words; the reason once it is gone."""
    card: WorkerCard | None = None
    load: WorkerLoad = WorkerLoad()  # noqa: RUF009 - frozen
    heard_at_s: float = 0.0
    ready_after_s: float | None = None
    restarts: int = 0
    """How many workers before it held the same place and died."""


@dataclass(frozen=True, slots=True)
class PhaseEntered:
    """A starting worker told what it is at."""

    phase: str


@dataclass(frozen=True, slots=True)
class EngineLoaded:
    """The worker can take requests."""

    card: WorkerCard


@dataclass(frozen=True, slots=True)
class Beat:
    """The worker answered; its load and whether it has nothing left to do."""

    load: WorkerLoad
    idle: bool


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """Somebody wants the worker gone once it has nothing to do."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody wants the worker gone now."""


@dataclass(frozen=True, slots=True)
class Died:
    """The worker's process ended."""

    reason: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The clock moved; nothing else happened."""


Event = PhaseEntered | EngineLoaded | Beat | DrainAsked | StopAsked | Died | TimePassed


@dataclass(frozen=True, slots=True)
class Kill:
    """End the worker's process and give back its place in the cluster."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class TellDraining:
    """Tell the worker to take no new legs."""

    worker: WorkerId


Instruction = Kill | TellDraining


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a worker may take to start and how long it may be silent."""

    start_timeout_s: float
    silence_s: float


def transition(record: WorkerRecord, event: Event, now_s: float, limits: Limits) -> tuple[WorkerRecord, list[Instruction]]:
    """The record after an event, and what is to be done about it. A gone worker stays gone, whatever is heard of it."""
    if record.state is WorkerState.GONE:
        return record, []
    if isinstance(event, Died):
        return _gone(record, DIED_DRAINING if record.state is WorkerState.DRAINING else event.reason)
    if isinstance(event, StopAsked):
        return _gone(record, "stopped")
    if isinstance(event, TimePassed):
        return _time_passed(record, now_s, limits)
    heard = replace(record, heard_at_s=now_s)
    if isinstance(event, PhaseEntered) and record.state is WorkerState.STARTING:
        return replace(heard, phase=event.phase), []
    if isinstance(event, EngineLoaded) and record.state is WorkerState.STARTING:
        took_s = now_s - record.created_at_s
        return replace(heard, state=WorkerState.READY, phase="ready", card=event.card, ready_after_s=took_s), []
    if isinstance(event, Beat):
        if record.state is WorkerState.DRAINING and event.idle:
            return _gone(replace(heard, load=event.load), "drained")
        return replace(heard, load=event.load), []
    if isinstance(event, DrainAsked):
        return _drain_asked(record)
    return heard, []


def _drain_asked(record: WorkerRecord) -> tuple[WorkerRecord, list[Instruction]]:
    if record.state is WorkerState.STARTING:
        return _gone(record, "stopped before it was ready")
    if record.state is WorkerState.DRAINING:
        return record, []
    return replace(record, state=WorkerState.DRAINING, phase="draining"), [TellDraining(record.worker)]


def _time_passed(record: WorkerRecord, now_s: float, limits: Limits) -> tuple[WorkerRecord, list[Instruction]]:
    if record.state is WorkerState.STARTING and now_s - record.created_at_s > limits.start_timeout_s:
        return _gone(record, f"not ready after {limits.start_timeout_s:.0f} s; it was at: {record.phase}")
    if record.state is not WorkerState.STARTING and now_s - record.heard_at_s > limits.silence_s:
        return _gone(record, f"silent for {limits.silence_s:.0f} s")
    return record, []


def _gone(record: WorkerRecord, reason: str) -> tuple[WorkerRecord, list[Instruction]]:
    return replace(record, state=WorkerState.GONE, phase=reason), [Kill(record.worker)]
