"""What can happen to a request: events, in the past tense, that a flow is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from core.handle import KVHandle
from core.ids import LegId, WorkerId
from router.plan import Plan


class Finish(StrEnum):
    """Why an engine ended a leg."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class FailKind(StrEnum):
    """Why a request was given up; decides the HTTP status."""

    OVERLOADED = "overloaded"
    """It would have waited too long for a worker."""
    UNAVAILABLE = "unavailable"
    """There was no worker."""
    LOST = "lost"
    """Workers ended under it, and it could not be carried on."""
    ENGINE = "engine"
    """The engine said this request cannot be done."""
    ABSENT = "absent"
    """No worker has what it asks for."""
    TIMED_OUT = "timed_out"
    """It took longer than any request may."""
    NEVER = "never"
    """What it is promised cannot be kept, now or later: its client has to ask for something else."""


@dataclass(frozen=True, slots=True)
class Planned:
    plan: Plan


@dataclass(frozen=True, slots=True)
class NoRoom:
    """No worker can take the request now."""


@dataclass(frozen=True, slots=True)
class Woken:
    """It is this request's turn again, or its pause is over."""

    handle_alive: bool = True
    """Whether KV that is kept for it can still be read."""


class LegOutput(msgspec.Struct, frozen=True):
    """A struct, as it is made several times quicker: there is one for every token."""

    leg: LegId
    tokens: list[int]
    finish: Finish | None = None
    handle: KVHandle | None = None
    recomputed: bool = False
    """The leg's first tokens were made without the kept KV: the pull failed, or was never tried."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The worker did not take the leg."""

    leg: LegId
    reason: str
    busy: bool = False
    """For want of room, as against for good."""
    unable: bool = False
    """It never will, for what the request asks for is not there; another one's may be."""


@dataclass(frozen=True, slots=True)
class MoveAsked:
    """The leg's worker has to go and would rather see it elsewhere. The leg runs on until it is aborted."""

    leg: LegId
    reason: str


@dataclass(frozen=True, slots=True)
class LegFailed:
    """The leg's engine ended under it."""

    leg: LegId
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerBack:
    """A worker that was lost is heard again, in the same life: its engine has not ended."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Somebody who keeps time, or counts room, says that there is no point in going on."""

    kind: FailKind
    reason: str
    retry_after_s: float | None = None
    """When the client may try again, where ``reason`` says so."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """The client is gone, or the front half saw a stop string."""


LegEvent = LegOutput | Refused | MoveAsked | LegFailed
Event = Planned | NoRoom | Woken | LegEvent | WorkerLost | WorkerBack | GivenUp | Aborted
