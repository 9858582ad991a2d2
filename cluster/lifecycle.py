"""A worker's life as a pure state machine: events in the past tense come in, the new record and instructions come out.

(created) -> STARTING --EngineLoaded--> READY --DrainAsked, SleepAsked--> DRAINING --Beat: idle--> GONE
              | ^                         |                                 | |
              | |                         +-- Died, silent --> GONE         | +-- Died, silent, too long --> GONE
              | |                                                           |
              | +--WakeAsked-- SLEEPING <--Beat: idle, and sleep was asked--+
              |                   |
              |                   +-- DrainAsked, Died, silent --> GONE
              +-- DrainAsked, Died, too long --> GONE

A role is no state: ``RoleChanged`` leaves a worker where it is. Whatever a worker has to be told it is told again with every beat,
until its beats show that it knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

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
    to_sleep: bool = False
    """Once it has drained it sleeps, instead of ending."""
    waking_since_s: float | None = None
    """Of a starting worker that has slept: its engine is loaded."""
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
    """The worker answered; its load, whether it has nothing left to do, and what it knows of its state."""

    load: WorkerLoad
    idle: bool
    draining: bool = False
    asleep: bool = False
    role: Role | None = None
    """The one the worker takes itself to have; None: it did not say."""


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """Somebody wants the worker gone once it has nothing to do: a person, the plan, or the worker itself, some seconds ago."""

    ago_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SleepAsked:
    """Somebody wants the worker to sleep once it has nothing to do. Only a ready one can be asked."""


@dataclass(frozen=True, slots=True)
class WakeAsked:
    """Somebody wants the sleeping worker to serve again."""


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """The worker was told that it belongs to the other pool from now on, and said yes."""

    role: Role


@dataclass(frozen=True, slots=True)
class Died:
    """The worker's process ended."""

    reason: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The clock moved; nothing else happened."""


Event = PhaseEntered | EngineLoaded | Beat | DrainAsked | SleepAsked | WakeAsked | RoleChanged | Died | TimePassed


@dataclass(frozen=True, slots=True)
class Kill:
    """End the worker's process and give back its place in the cluster."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class TellDraining:
    """Tell the worker to take no new legs."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class TellRole:
    """Tell the worker its role: it has another one in mind."""

    worker: WorkerId
    role: Role


@dataclass(frozen=True, slots=True)
class TellSleep:
    """Tell the worker, which has drained, to put its engine to sleep."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class TellWake:
    """Tell the worker to wake its engine and to take legs again."""

    worker: WorkerId


Instruction = Kill | TellDraining | TellRole | TellSleep | TellWake


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
        what = "died asleep: " if record.state is WorkerState.SLEEPING else "died while draining: " if record.was_to_go else ""
        return _gone(record, End.DIED, what + event.reason)
    if isinstance(event, TimePassed):
        return _time_passed(record, now_s, limits)
    if isinstance(event, DrainAsked | SleepAsked):
        return _drain_asked(record, event, now_s)
    if isinstance(event, WakeAsked):
        return _wake_asked(record, now_s)
    if isinstance(event, RoleChanged):
        card = record.card and msgspec.structs.replace(record.card, role=event.role)
        return replace(record, role=event.role, card=card), []
    heard = replace(record, heard_at_s=now_s)
    if isinstance(event, PhaseEntered) and record.state is WorkerState.STARTING:
        return replace(heard, phase=event.phase), []
    if isinstance(event, EngineLoaded) and record.state is WorkerState.STARTING:
        return _loaded(heard, event.card, now_s), []
    if isinstance(event, Beat):
        after, instructions = _beat(replace(heard, load=event.load), event)
        if event.role not in (None, after.role) and after.state is not WorkerState.GONE:
            instructions.append(TellRole(record.worker, after.role))
        return after, instructions
    return heard, []


def _loaded(record: WorkerRecord, card: WorkerCard, now_s: float) -> WorkerRecord:
    took_s = now_s - record.created_at_s if record.waking_since_s is None else record.ready_after_s  # how long it slept is no start
    card = msgspec.structs.replace(card, role=record.role)
    return replace(record, state=WorkerState.READY, phase="ready", card=card, ready_after_s=took_s, waking_since_s=None)


def _beat(record: WorkerRecord, beat: Beat) -> tuple[WorkerRecord, list[Instruction]]:
    worker = record.worker
    if record.waking_since_s is not None:
        return record, [TellWake(worker)] if beat.asleep or beat.draining else []
    if record.state is WorkerState.STARTING and beat.asleep:  # a former controller had it put to sleep
        return replace(record, state=WorkerState.SLEEPING, phase="sleeping", draining_since_s=record.heard_at_s), []
    if record.state is WorkerState.SLEEPING:
        return record, [] if beat.asleep else [TellSleep(worker)]
    if record.state is not WorkerState.DRAINING:
        return record, []
    if not beat.draining:  # it was not told, or is not told yet; and who takes new legs is not idle for long
        return record, [TellDraining(worker)]
    if not beat.idle:
        return record, []
    if record.to_sleep:
        return replace(record, state=WorkerState.SLEEPING, phase="sleeping"), [TellSleep(worker)]
    return _gone(record, End.DRAINED, DRAINED)


def _drain_asked(record: WorkerRecord, event: DrainAsked | SleepAsked, now_s: float) -> tuple[WorkerRecord, list[Instruction]]:
    if isinstance(event, SleepAsked):
        if record.state is not WorkerState.READY:
            return record, []
        asked = replace(record, draining_since_s=now_s, to_sleep=True)
        return replace(asked, state=WorkerState.DRAINING, phase="draining, to sleep"), [TellDraining(record.worker)]
    if record.state is WorkerState.SLEEPING:
        return _gone(record, End.DRAINED, DRAINED)
    if record.was_to_go:
        return record, []
    asked = replace(record, draining_since_s=now_s - event.ago_s)
    if record.state is WorkerState.STARTING:
        return _gone(asked, End.NEVER_READY, NEVER_READY)
    return replace(asked, state=WorkerState.DRAINING, phase="draining"), [TellDraining(record.worker)]


def _wake_asked(record: WorkerRecord, now_s: float) -> tuple[WorkerRecord, list[Instruction]]:
    if record.state is not WorkerState.SLEEPING:
        return record, []
    waking = replace(record, state=WorkerState.STARTING, phase="waking up", draining_since_s=None, to_sleep=False, waking_since_s=now_s)
    return waking, [TellWake(record.worker)]


def _time_passed(record: WorkerRecord, now_s: float, limits: Limits) -> tuple[WorkerRecord, list[Instruction]]:
    if record.state is WorkerState.STARTING:
        since_s = record.created_at_s if record.waking_since_s is None else record.waking_since_s
        if now_s - since_s > limits.start_timeout_s:
            return _gone(record, End.START_TIMEOUT, f"not ready after {limits.start_timeout_s:.0f} s; it was at: {record.phase}")
        return record, []
    if now_s - record.heard_at_s > limits.silence_s:
        return _gone(record, End.SILENT, f"silent for {limits.silence_s:.0f} s")
    if record.state is WorkerState.DRAINING and now_s - (record.draining_since_s or 0.0) > limits.drain_s:
        load = record.load
        left = f"{load.running + load.waiting} legs, {load.leased_blocks} kept blocks"
        return _gone(record, End.DRAIN_TIMEOUT, f"ended though not drained after {limits.drain_s:.0f} s; it still had {left}")
    return record, []


def _gone(record: WorkerRecord, end: End, reason: str) -> tuple[WorkerRecord, list[Instruction]]:
    return replace(record, state=WorkerState.GONE, phase=reason, end=end), [Kill(record.worker)]
