"""One request as a pure state machine: what happened comes in, what to do comes out.

    PLANNING --Planned, split--> PREFILLING --LegOutput, Planned anew--> DECODING --LegOutput, finished--> DONE
     |    ^  --Planned, whole--> DECODING                                    |
     |    |                         |                                        |
     |    +-- Refused, WorkerLost, LegFailed, MoveAsked: go on behind the tokens that are out, elsewhere
     |    +---------------------------------------------+                    +--- Aborted, GivenUp, budget spent --> DONE
     +--NoRoom--> WAITING --Woken--> PLANNING

A request that loses its worker is planned anew with the tokens the client has; the next worker takes them as output already
made, as vLLM does after a preemption. The client sees a pause. What cannot be continued exactly (``router.traits``) fails
once it has emitted anything, and starts again if it has not.

Whatever the order of events, DONE is reached once, and every leg that was sent has then finished or been aborted: that is
what frees its blocks and its lease.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from cluster.messages import LegKind
from core.handle import KVHandle
from core.ids import LegId, RequestId, WorkerId, leg_id
from router.events import (
    Aborted,
    Event,
    FailKind,
    Finish,
    GivenUp,
    LegEvent,
    LegOutput,
    MoveAsked,
    NoRoom,
    Planned,
    Refused,
    Woken,
    WorkerBack,
    WorkerLost,
)
from router.instructions import AbortLeg, AskDecode, AskPlan, Fail, Finished, Instruction, Pass, Pause, SendLeg, Wait
from router.plan import Plan
from router.retry import Retry
from router.traits import Traits


class Phase(StrEnum):
    PLANNING = "planning"
    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    DONE = "done"


@dataclass(slots=True)
class Flow:
    """The state of one request. ``handle(event)`` is its only way forward."""

    request: RequestId
    traits: Traits
    retry: Retry = Retry()  # noqa: RUF009 - frozen
    phase: Phase = Phase.PLANNING
    emitted: list[int] = field(default_factory=list)
    """Output tokens the client has."""
    losses: int = 0
    """Engines that ended under it, less those that it has made up for by going on since."""
    losses_ever: int = 0
    """All engines that ended under it."""
    kept: KVHandle | None = None
    """The prompt, computed and kept for a decode worker that has not read it for certain."""
    _legs: int = 0
    _cut_off: list[WorkerId] = field(default_factory=list)
    """Workers whose loss counts though only the connection to them is known to have ended."""
    _since_loss: int = 0
    """Tokens made since an engine ended under it."""
    _plan: Plan | None = None
    _excluded: set[WorkerId] = field(default_factory=set)
    """Who refused it or was lost under it since it was last woken."""
    unable: dict[WorkerId, str] = field(default_factory=dict)
    """Who can never do it, and why: what it asks for is not there. Waiting changes nothing about that."""
    _running: dict[LegId, WorkerId] = field(default_factory=dict)
    """Legs that were sent and have not ended."""
    _keepers: dict[LegId, WorkerId] = field(default_factory=dict)
    """The finished prefill leg behind ``kept``."""

    def start(self) -> list[Instruction]:
        """The first instructions."""
        return [AskPlan()]

    @property
    def legs(self) -> dict[LegId, WorkerId]:
        """Everything this request still holds on workers."""
        return {**self._running, **self._keepers}

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what ends engines; see ``Retry.is_suspect``."""
        return self.retry.is_suspect(self.losses)

    @property
    def why_unable(self) -> str:
        """What its client is told where nobody can do it: the newest reason there is."""
        asked = f"; {len(self.unable)} workers were asked" if len(self.unable) > 1 else ""
        return f"{list(self.unable.values())[-1]}{asked}"

    def handle(self, event: Event) -> list[Instruction]:
        """Takes one event. Events about legs that have ended, and any event after DONE, change nothing."""
        if self.phase is Phase.DONE:
            return []
        if isinstance(event, LegEvent):
            return self._of_leg(event) if event.leg in self._running else []
        if isinstance(event, WorkerLost):
            return self._lost(event)
        if isinstance(event, WorkerBack):
            return self._back(event.worker)
        if isinstance(event, Planned):
            return self._planned(event.plan) if self.phase is Phase.PLANNING else []
        if isinstance(event, NoRoom):
            return self._no_room() if self.phase is Phase.PLANNING else []
        if isinstance(event, Woken):
            return self._woken(event) if self.phase is Phase.WAITING else []
        if isinstance(event, GivenUp):
            return self._end(Fail(event.kind, event.reason, event.retry_after_s))
        assert isinstance(event, Aborted)
        return self._end()

    def _of_leg(self, event: LegEvent) -> list[Instruction]:
        if isinstance(event, LegOutput):
            return self._output(event)
        if isinstance(event, Refused):
            return self._refused(event)
        if isinstance(event, MoveAsked):
            return self._move_asked(event)
        worker = self._running.pop(event.leg)
        return self._lost_engine(worker, event.reason)

    # -- planning ------------------------------------------------------------------------------------------------------

    def _planned(self, plan: Plan) -> list[Instruction]:
        self._plan = plan
        if self.kept is not None and plan.is_split and plan.prefill == self.kept.worker:
            return self._decode(plan.decode)
        undo = self._abort_all()
        if plan.is_split and self.traits.splittable:
            self.phase = Phase.PREFILLING
            return [*undo, self._send(plan.prefill, LegKind.PREFILL, first_token_counts=self.traits.continuable)]
        self.phase = Phase.DECODING
        return [*undo, self._send(plan.decode, LegKind.WHOLE)]

    def _no_room(self) -> list[Instruction]:
        self.phase = Phase.WAITING
        return [Wait()]

    def _woken(self, woken: Woken) -> list[Instruction]:
        self._excluded.clear()  # who refused may have room, who was lost may be back
        undo = [] if woken.handle_alive else self._abort_all()
        return [*undo, self._ask()]

    def _ask(self) -> AskPlan:
        self.phase = Phase.PLANNING
        return AskPlan(frozenset(self._excluded | self.unable.keys()), self.kept.worker if self.kept is not None else None)

    # -- outputs -------------------------------------------------------------------------------------------------------

    def _output(self, output: LegOutput) -> list[Instruction]:
        if output.finish is Finish.ERROR:
            del self._running[output.leg]
            return self._end(Fail(FailKind.ENGINE, "the engine reported an error for this request"))
        if self.phase is Phase.PREFILLING:
            return self._prefilled(output)
        # Tokens from decode: the KV was read, and the engine that kept it knows. Or nobody will ever read it.
        unread: list[Instruction] = [AbortLeg(leg, worker) for leg, worker in self._keepers.items()] if output.recomputed else []
        self._forget_kept()
        self._emit(output.tokens)
        if output.finish is None:
            return [Pass.ON, *unread]
        del self._running[output.leg]
        return [Pass.ON, *unread, *self._end()]

    def _prefilled(self, output: LegOutput) -> list[Instruction]:
        """A prefill leg has exactly one output, its last."""
        assert self._plan is not None
        worker = self._running.pop(output.leg)
        if output.handle is not None:
            self.kept = output.handle
            self._keepers[output.leg] = worker
        counts = self.traits.continuable
        if counts:
            self._emit(output.tokens)
            if output.finish is Finish.STOP:
                return [Pass.ON, *self._end()]
        decode = [AskDecode(self._ask())] if self.kept is not None else self._decode(self._plan.decode)
        return [Pass.ON_UNFINISHED if counts else Pass.HOLD, *decode]

    def _emit(self, tokens: list[int]) -> None:
        self.emitted += tokens
        if self.losses:
            self._since_loss += len(tokens)
            self.losses = self.retry.cleared(self.losses, self._since_loss)

    def _decode(self, worker: WorkerId) -> list[Instruction]:
        self.phase = Phase.DECODING
        return [self._send(worker, LegKind.DECODE, handle=self.kept)]

    def _send(self, worker: WorkerId, kind: LegKind, *, first_token_counts: bool = True, handle: KVHandle | None = None) -> SendLeg:
        leg = leg_id(self.request, self._legs)
        self._legs += 1
        self._running[leg] = worker
        return SendLeg(leg, worker, kind, first_token_counts, handle, tuple(self.emitted))

    # -- trouble -------------------------------------------------------------------------------------------------------

    def _refused(self, refused: Refused) -> list[Instruction]:
        """Nothing of the leg was done. A prompt that is computed and kept is offered to another decode worker."""
        worker = self._running.pop(refused.leg)
        if refused.unable:
            self.unable[worker] = refused.reason
            if self.retry.is_spent(len(self.unable)):
                return self._end(Fail(FailKind.ABSENT, self.why_unable))
        elif not refused.busy:  # one that is only full is still worth waiting for
            self._excluded.add(worker)
        return [self._ask()]

    def _move_asked(self, move: MoveAsked) -> list[Instruction]:
        if not self._can_go_on:
            return []  # it ends where it is, or with its worker
        self._excluded.add(self._running[move.leg])
        return [*self._abort_all(), self._ask()]

    def _lost(self, event: WorkerLost) -> list[Instruction]:
        keeper_lost = event.worker in self._keepers.values()
        if keeper_lost:
            self._forget_kept()
        if event.worker in self._running.values():
            self._running = {leg: worker for leg, worker in self._running.items() if worker != event.worker}
            self._cut_off.append(event.worker)
            return self._lost_engine(event.worker, f"worker {event.worker} was lost: {event.reason}")
        if keeper_lost and self.phase is Phase.DECODING:
            # The decode worker may be waiting for bytes that never come. Nothing of it has reached the client.
            self._excluded.add(event.worker)
            return [*self._abort_all(), self._ask()]
        return []

    def _back(self, worker: WorkerId) -> list[Instruction]:
        """It was not this request that ended the worker, for nothing has."""
        if worker in self._cut_off:
            self._cut_off.remove(worker)
            self.losses = max(0, self.losses - 1)
        return []

    def _lost_engine(self, worker: WorkerId, reason: str) -> list[Instruction]:
        self.losses += 1
        self.losses_ever += 1
        self._since_loss = 0
        self._excluded.add(worker)
        if not self._can_go_on:
            return self._end(Fail(FailKind.LOST, f"{reason}; it cannot be continued exactly: {self.traits.reason}"))
        if self.retry.is_spent(self.losses):
            return self._end(Fail(FailKind.LOST, f"{reason}; given up after {self.losses} engines ended under it"))
        undo, pause_s = self._abort_all(), self.retry.pause_s(self.losses)
        if pause_s == 0:
            return [*undo, self._ask()]
        self.phase = Phase.WAITING
        return [*undo, Pause(pause_s)]

    @property
    def _can_go_on(self) -> bool:
        """Whether another worker can go on behind the tokens that are out."""
        return self.traits.continuable or not self.emitted

    def _end(self, *last: Instruction) -> list[Instruction]:
        self.phase = Phase.DONE
        return [*self._abort_all(), *last, Finished()]

    def _abort_all(self) -> list[Instruction]:
        aborts: list[Instruction] = [AbortLeg(leg, worker) for leg, worker in self.legs.items()]
        self._running.clear()
        self._forget_kept()
        return aborts

    def _forget_kept(self) -> None:
        self.kept = None
        self._keepers.clear()
