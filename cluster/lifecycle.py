"""A worker's life as a pure state machine: events in the past tense come in, the new record and instructions come out.

(created) -> STARTING --EngineLoaded--> READY --DrainAsked--> DRAINING --Beat: idle--> GONE
                 |                        |                      |
                 +-- DrainAsked, Died,    +-- Died, silent       +-- Died, silent, too long --> GONE
                     too long --> GONE        --> GONE
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from core.ids import Epoch, WorkerId
from core.metrics.words import End
from core.worker import Role, WorkerCard, WorkerLoad, WorkerState

DRAINED = "drained"
NEVER_READY = "stopped before it was ready"
WELL_ENDED = frozenset({DRAINED, NEVER_READY})
"""Phases of gone workers of which there is nothing to tell."""


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
    draining_since_s: float | None = None
    end: End | None = None
    """Why it is gone, in one word."""
    restarts: int = 0
    """How many workers before it held the same place and died."""

    @property
    def was_to_go(self) -> bool:
        """Whether somebody wanted it gone: however it ended then, that was no death to be slow about."""
        return self.draining_since_s is not None


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
    """The worker answered; its load, whether it has nothing left to do, and whether it knows that it drains."""

    load: WorkerLoad
    idle: bool
    draining: bool = False


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """Somebody wants the worker gone once it has nothing to do: a person, the plan, or the worker itself, some seconds ago."""

    ago_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Died:
    """The worker's process ended."""

    reason: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The clock moved; nothing else happened."""


Event = PhaseEntered | EngineLoaded | Beat | DrainAsked | Died | TimePassed


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
    """How long a worker may take to start, how long it may be silent, and how long its drain may take, leases and all."""

    start_timeout_s: float
    silence_s: float
    drain_s: float


def transition(record: WorkerRecord, event: Event, now_s: float, limits: Limits) -> tuple[WorkerRecord, list[Instruction]]:
    """The record after an event, and what is to be done about it. A gone worker stays gone, whatever is heard of it."""
    if record.state is WorkerState.GONE:
        return record, []
    if isinstance(event, Died):
        return _gone(record, End.DIED, f"died while draining: {event.reason}" if record.was_to_go else event.reason)
    if isinstance(event, TimePassed):
        return _time_passed(record, now_s, limits)
    if isinstance(event, DrainAsked):
        return _drain_asked(record, now_s - event.ago_s)
    heard = replace(record, heard_at_s=now_s)
    if isinstance(event, PhaseEntered) and record.state is WorkerState.STARTING:
        return replace(heard, phase=event.phase), []
    if isinstance(event, EngineLoaded) and record.state is WorkerState.STARTING:
        took_s = now_s - record.created_at_s
        return replace(heard, state=WorkerState.READY, phase="ready", card=event.card, ready_after_s=took_s), []
    if isinstance(event, Beat):
        return _beat(replace(heard, load=event.load), event)
    return heard, []


def _beat(record: WorkerRecord, beat: Beat) -> tuple[WorkerRecord, list[Instruction]]:
    if record.state is not WorkerState.DRAINING:
        return record, []
    if not beat.draining:  # it was not told, or is not told yet; and who takes new legs is not idle for long
        return record, [TellDraining(record.worker)]
    return _gone(record, End.DRAINED, DRAINED) if beat.idle else (record, [])


def _drain_asked(record: WorkerRecord, since_s: float) -> tuple[WorkerRecord, list[Instruction]]:
    if record.was_to_go:
        return record, []
    asked = replace(record, draining_since_s=since_s)
    if record.state is WorkerState.STARTING:
        return _gone(asked, End.NEVER_READY, NEVER_READY)
    return replace(asked, state=WorkerState.DRAINING, phase="draining"), [TellDraining(record.worker)]


def _time_passed(record: WorkerRecord, now_s: float, limits: Limits) -> tuple[WorkerRecord, list[Instruction]]:
    if record.state is WorkerState.STARTING:
        if now_s - record.created_at_s > limits.start_timeout_s:
            return _gone(record, End.START_TIMEOUT, f"not ready after {limits.start_timeout_s:.0f} s; it was at: {record.phase}")
        return record, []
    if now_s - record.heard_at_s > limits.silence_s:
        return _gone(record, End.SILENT, f"silent for {limits.silence_s:.0f} s")
    if record.draining_since_s is not None and now_s - record.draining_since_s > limits.drain_s:
        load = record.load
        left = f"{load.running + load.waiting} legs, {load.leased_blocks} kept blocks"
        return _gone(record, End.DRAIN_TIMEOUT, f"ended though not drained after {limits.drain_s:.0f} s; it still had {left}")
    return record, []


def _gone(record: WorkerRecord, end: End, reason: str) -> tuple[WorkerRecord, list[Instruction]]:
    return replace(record, state=WorkerState.GONE, phase=reason, end=end), [Kill(record.worker)]
