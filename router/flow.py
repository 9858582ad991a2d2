"""One request as a pure state machine: what happened comes in, what to do comes out.

    PLANNING --Planned, split--> PREFILLING --LegOutput, more to come--> DECODING --LegOutput, finished--> DONE
        ^    --Planned, whole--> DECODING                                    |
        |                            |                                       |
        +-- Refused, WorkerLost (nothing emitted yet, attempts left) --------+--- LegFailed, Aborted, ... --> DONE

Whatever the order of events, DONE is reached once, and every leg that was sent has then finished or been aborted: that is
what frees its blocks and its lease.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto

from cluster.messages import LegKind
from core.handle import KVHandle
from core.ids import LegId, RequestId, WorkerId, leg_id
from router.plan import Plan
from router.traits import Traits

MAX_ATTEMPTS = 4
"""How often one request is planned anew; one that ends every worker it touches must not go round the whole pool."""


class Phase(StrEnum):
    PLANNING = "planning"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    DONE = "done"


class Finish(StrEnum):
    """Why an engine ended a leg."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


# -- events ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Planned:
    plan: Plan


@dataclass(frozen=True, slots=True)
class NoPlan:
    """No worker can take the request now."""


@dataclass(frozen=True, slots=True)
class LegOutput:
    leg: LegId
    tokens: list[int]
    finish: Finish | None = None
    handle: KVHandle | None = None
    recomputed: bool = False
    """The leg's first tokens were made without the kept KV: the pull failed, or was never tried."""


@dataclass(frozen=True, slots=True)
class Refused:
    leg: LegId
    reason: str


@dataclass(frozen=True, slots=True)
class LegFailed:
    leg: LegId
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class Aborted:
    """The client is gone, or the front half saw a stop string."""


Event = Planned | NoPlan | LegOutput | Refused | LegFailed | WorkerLost | Aborted

# -- instructions ----------------------------------------------------------------------------------------------------------


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
    excluded: frozenset[WorkerId]


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

    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing more will come; forget the request."""


Instruction = Pass | AskPlan | SendLeg | AbortLeg | Fail | Finished


@dataclass(slots=True)
class Flow:
    """The state of one request. ``handle(event)`` is its only way forward."""

    request: RequestId
    traits: Traits
    phase: Phase = Phase.PLANNING
    emitted: list[int] = field(default_factory=list)
    plan: Plan | None = None
    _legs: int = 0
    _attempts: int = 0
    _excluded: set[WorkerId] = field(default_factory=set)
    _running: dict[LegId, WorkerId] = field(default_factory=dict)
    """Legs that were sent and have not ended."""
    _kept: dict[LegId, WorkerId] = field(default_factory=dict)
    """Finished prefill legs whose KV nobody has read for certain."""

    def start(self) -> list[Instruction]:
        """The first instructions."""
        self._attempts = 1
        return [AskPlan(frozenset())]

    @property
    def legs(self) -> dict[LegId, WorkerId]:
        """Everything this request still holds on workers."""
        return {**self._running, **self._kept}

    def handle(self, event: Event) -> list[Instruction]:
        """Takes one event. Events about legs that have ended, and any event after DONE, change nothing."""
        if self.phase is Phase.DONE:
            return []
        if isinstance(event, Planned):
            return self._planned(event.plan) if self.phase is Phase.PLANNING else []
        if isinstance(event, LegOutput):
            return self._output(event) if event.leg in self._running else []
        if isinstance(event, Refused):
            return self._elsewhere(event.leg, event.reason) if event.leg in self._running else []
        if isinstance(event, LegFailed):
            return self._failed(event) if event.leg in self._running else []
        if isinstance(event, WorkerLost):
            return self._lost(event)
        if isinstance(event, NoPlan):
            return self._end(Fail("no worker can take the request")) if self.phase is Phase.PLANNING else []
        return self._end()

    def _planned(self, plan: Plan) -> list[Instruction]:
        self.plan = plan
        if plan.is_split and self.traits.splittable:
            self.phase = Phase.PREFILLING
            return [self._send(plan.prefill, LegKind.PREFILL, first_token_counts=self.traits.first_token_counts)]
        self.phase = Phase.DECODING
        return [self._send(plan.decode, LegKind.WHOLE)]

    def _output(self, output: LegOutput) -> list[Instruction]:
        if output.finish is Finish.ERROR:
            return self._failed(LegFailed(output.leg, "the engine reported an error for this request"))
        if self.phase is Phase.PREFILLING:
            return self._prefilled(output)
        # Tokens from decode: the KV was read, and the engine that kept it knows. Or nobody will ever read it.
        unread: list[Instruction] = [AbortLeg(leg, worker) for leg, worker in self._kept.items()] if output.recomputed else []
        self._kept.clear()
        self.emitted += output.tokens
        if output.finish is None:
            return [Pass.ON, *unread]
        del self._running[output.leg]
        return [Pass.ON, *unread, *self._end()]

    def _prefilled(self, output: LegOutput) -> list[Instruction]:
        """A prefill leg has exactly one output, its last."""
        assert self.plan is not None
        worker = self._running.pop(output.leg)
        if output.handle is not None:
            self._kept[output.leg] = worker
        counts = self.traits.first_token_counts
        if counts:
            self.emitted += output.tokens
            if output.finish is Finish.STOP:
                return [Pass.ON, *self._end()]
        self.phase = Phase.DECODING
        passing = Pass.ON_UNFINISHED if counts else Pass.HOLD
        return [passing, self._send(self.plan.decode, LegKind.DECODE, handle=output.handle, emitted=tuple(self.emitted))]

    def _send(
        self,
        worker: WorkerId,
        kind: LegKind,
        *,
        first_token_counts: bool = True,
        handle: KVHandle | None = None,
        emitted: tuple[int, ...] = (),
    ) -> SendLeg:
        leg = leg_id(self.request, self._legs)
        self._legs += 1
        self._running[leg] = worker
        return SendLeg(leg, worker, kind, first_token_counts, handle, emitted)

    def _elsewhere(self, leg: LegId, reason: str) -> list[Instruction]:
        """The leg did not happen; if the client has seen nothing yet, the request starts again without that worker."""
        self._excluded.add(self._running.pop(leg))
        if self.emitted or self._attempts >= MAX_ATTEMPTS:
            return self._end(Fail(reason))
        undo = self._abort_all()
        self._attempts += 1
        self.phase, self.plan = Phase.PLANNING, None
        return [*undo, AskPlan(frozenset(self._excluded))]

    def _lost(self, event: WorkerLost) -> list[Instruction]:
        self._kept = {leg: worker for leg, worker in self._kept.items() if worker != event.worker}
        lost = [leg for leg, worker in self._running.items() if worker == event.worker]
        return self._elsewhere(lost[0], f"worker {event.worker} was lost: {event.reason}") if lost else []

    def _failed(self, event: LegFailed) -> list[Instruction]:
        del self._running[event.leg]
        return self._end(Fail(event.reason))

    def _end(self, *last: Instruction) -> list[Instruction]:
        self.phase = Phase.DONE
        return [*self._abort_all(), *last, Finished()]

    def _abort_all(self) -> list[Instruction]:
        aborts: list[Instruction] = [AbortLeg(leg, worker) for leg, worker in self.legs.items()]
        self._running.clear()
        self._kept.clear()
        return aborts
