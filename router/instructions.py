"""What a flow wants done: instructions, in the imperative, that the dispatcher carries out in order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from cluster.messages import LegKind
from core.handle import KVHandle
from core.ids import LegId, WorkerId
from router.events import FailKind


class Pass(Enum):
    """What to do with the engine output at hand."""

    ON = auto()
    """Give it to the client as it is."""
    ON_UNFINISHED = auto()
    """Give its tokens to the client, but the request goes on."""
    HOLD = auto()
    """Keep what it tells of the prompt for the next output; drop its token."""


@dataclass(frozen=True, slots=True)
class AskPlan:
    excluded: frozenset[WorkerId] = frozenset()
    """Who just refused it or was lost under it."""
    keeper: WorkerId | None = None
    """Its prompt is computed and kept there: only a decode worker is wanted."""


@dataclass(frozen=True, slots=True)
class AskDecode:
    """Its prompt has just been computed: who decodes, as things are now? Whoever the plan says, unless there is reason for another."""

    order: AskPlan


@dataclass(frozen=True, slots=True)
class Wait:
    """Put the request into the queue; it wants to be woken when somebody has room."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wake the request after ``pause_s`` seconds."""

    pause_s: float


@dataclass(frozen=True, slots=True)
class SendLeg:
    leg: LegId
    worker: WorkerId
    kind: LegKind
    first_token_counts: bool = True
    handle: KVHandle | None = None
    emitted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AbortLeg:
    """Stop a leg, or let go of the KV it left."""

    leg: LegId
    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Fail:
    """Tell the client, in the stream if there is one."""

    kind: FailKind
    reason: str
    retry_after_s: float | None = None
    """When to try again, where ``reason`` says so."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing more will come; forget the request."""


Instruction = Pass | AskPlan | AskDecode | Wait | Pause | SendLeg | AbortLeg | Fail | Finished
