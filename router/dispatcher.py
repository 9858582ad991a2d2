"""The router's shell: carries out what flows decide. Requests and engine outputs pass through here; all decisions are elsewhere.

Everything runs on one event loop. Sending never blocks (the sockets queue without bound and a dead peer's queue is dropped
with its link), so instructions are carried out in order, synchronously.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.coming import Coming
from cluster.messages import Failed, FromWorker, Hello, MoveLegs, Pulse, StepOutputs
from cluster.messages import Refused as RefusedMessage
from core.ids import RequestId, WorkerId
from core.metrics.predictions import PredictionNumbers
from core.metrics.words import Decided
from core.worker import WorkerCard
from engine.vllm_codec import OutputsCodec, RequestCodec
from engine.vllm_outputs import error_output
from router import events as e
from router import instructions as i
from router.balancer.balancer import Balancer
from router.entry import Entry
from router.failures import Failures
from router.foresight import Foresight
from router.handovers import Handovers
from router.intake import take_in
from router.legs import Legs
from router.limits import Limits
from router.link import WorkerLink
from router.outbox import Outbox
from router.placing import Placing
from router.plan import View
from router.queue import RequestQueue
from router.reason import Reason
from router.request_spans import request_spans
from router.retry import Retry
from router.service import ORDINARY, WantedService
from router.steps import Steps
from router.tally import RouterTally
from router.timeline import TimelineBook
from router.timers import Later, on_this_loop
from router.waiting_room import WaitingRoom
from router.workers import Workers

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest

log = logging.getLogger(__name__)

_DECIDED = {e.Planned: Decided.PLANNED, e.NoRoom: Decided.NO_ROOM, e.GivenUp: Decided.REFUSED}


class Dispatcher:
    """All requests of one router. ``deliver`` gets the outputs for the front half; ``clock`` is monotonic seconds."""

    def __init__(
        self,
        balancer: Balancer,
        deliver: Callable[[list[EngineCoreOutput]], None],
        clock: Callable[[], float],
        *,
        limits: Limits | None = None,
        retry: Retry | None = None,
        later: Later = on_this_loop,
        foresight: Foresight | None = None,
        requests_codec: RequestCodec | None = None,
        outputs_codec: OutputsCodec | None = None,
        tally: RouterTally | None = None,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``stopwatch`` times decisions; real seconds also where ``clock`` is not."""
        self.timelines = TimelineBook()
        self.handovers = Handovers()
        self.tally = tally = tally or RouterTally()
        self._stopwatch = stopwatch
        self._clock = clock
        self._limits = limits = limits or Limits()
        self._retry = retry or Retry()
        self._later = later
        self._requests = requests_codec or RequestCodec()
        self._entries: dict[RequestId, Entry] = {}
        self._failures = Failures()
        self._balancer = balancer
        self._foresight = foresight = foresight or Foresight()
        self._outbox = outbox = Outbox(deliver)
        self._workers = workers = Workers(limits)
        self._legs = legs = Legs(workers, foresight, clock)
        self._room = room = WaitingRoom(limits, self._entries, workers, legs, clock, later, self._tell)
        self._placing = Placing(balancer, foresight, workers, room, clock, hopeless=limits.queue.refuse_hopeless)
        self._steps = Steps(
            outputs_codec or OutputsCodec(), workers, legs, room, foresight, outbox, tally, self.handovers, clock, self._act
        )

    # -- workers -------------------------------------------------------------------------------------------------------

    def link_opened(self, link: WorkerLink, seed: bytes = b"") -> None:
        """The worker can be sent legs as soon as its link is up. ``seed`` is what the cluster's block keys are made with."""
        self._workers.enter(link)
        self._foresight.entered(link.card, seed)
        self.tally.joined(link.card.worker, link.card.role)

    def awaits(self, coming: Coming) -> None:
        """Told who will serve beside those that do."""
        self._room.awaited.told(coming, self._clock())

    def hello(self) -> Hello:
        """What workers are told at every beat."""
        return Hello(self._room.queue.tokens)

    def link_changed(self) -> None:
        """A worker has another role or state: there may be a place now for one that waits. Nothing that runs is touched."""
        for card in self._workers.cards:
            self.tally.joined(card.worker, card.role)
        self._room.wake()

    def link_closed(self, worker: WorkerId, reason: str) -> None:
        """The worker is no member any more; its legs are lost."""
        self._workers.leave(worker)
        self.worker_lost(worker, reason)
        self._workers.inflight.forget(worker)
        self._foresight.left(worker)
        self._balancer.forget(worker)
        self.tally.left(worker)

    def worker_lost(self, worker: WorkerId, reason: str) -> None:
        """The worker can no longer be reached, or its life is over."""
        self._workers.lost(worker)
        self._foresight.lost(worker)
        for entry in list(self._entries.values()):
            if entry.track is not None:
                entry.track.lost(worker, reason)
            if self._legs.lost(entry, worker):
                self._tell(entry, e.WorkerLost(worker, reason))

    def view(self) -> View:
        """The reachable workers as this router sees them."""
        return self._workers.view()

    @property
    def unreachable(self) -> Sequence[WorkerCard]:
        """Members of the cluster that this router cannot reach now."""
        return self._workers.unreachable

    def nobody(self, service: WantedService = ORDINARY) -> str | None:
        """Why a new request that is to get ``service`` has nobody to wait for, in words for its client; None: it has somebody."""
        return self._room.nobody(service)

    # -- requests ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def decoding(self) -> int:
        """Requests whose client has a first token and not the last. Looks at all of them: for scrapes."""
        return sum(entry.timeline.first_token_s is not None for entry in self._entries.values())

    @property
    def outstanding_legs(self) -> int:
        """Legs sent and not ended."""
        return len(self._legs)

    @property
    def queue(self) -> RequestQueue:
        """The requests that wait for a worker."""
        return self._room.queue

    @property
    def now_s(self) -> float:
        """The clock that timelines begin on."""
        return self._clock()

    @property
    def oldest_waiting_s(self) -> float:
        """How long the one has been waiting that waits longest; 0 where nobody does."""
        since_s = self.queue.oldest_since_s
        return 0.0 if since_s is None else self._clock() - since_s

    @property
    def prediction_numbers(self) -> list[PredictionNumbers]:
        """How predictions compare with what happened."""
        return self._foresight.predictor.error_numbers

    def overload(self, requests: int = 1, service: WantedService = ORDINARY) -> Reason | None:
        """Why new requests that are to get ``service`` are refused now, in words for the client; None while they are taken."""
        return self._room.full(requests, service)

    def retry_after_s(self) -> float:
        """When a client that is refused now should try again."""
        return self._room.retry_after_s()

    def refusal(self, service: WantedService = ORDINARY) -> tuple[Reason, float] | None:
        """Why one new request is refused now, and when to try again; None while it is taken. Cheap: asked before it is read."""
        reason = self.overload(1, service)
        return None if reason is None else (reason, self.retry_after_s())

    def take_failure(self, client_request: str) -> i.Fail | None:
        """Why a request of this client was given up, once."""
        return self._failures.take(client_request)

    def add(self, request: EngineCoreRequest) -> None:
        """Starts a request. Its outputs come through ``deliver``; every request ends with exactly one finished output."""
        entry = take_in(request, self._requests, self._retry, self._clock())
        self._foresight.learn(entry, request)
        self._entries[entry.flow.request] = entry
        self.timelines.add(entry.timeline)
        entry.meter = self.tally.arrived(entry.service, entry.timeline.prompt_tokens)
        limits_s = [limit_s for limit_s in (self._limits.request_timeout_s, entry.service.deadline_s) if limit_s is not None]
        if limits_s:
            late = e.GivenUp(e.FailKind.TIMED_OUT, f"not done after {min(limits_s):g} s")
            entry.timers.append(self._later(min(limits_s), lambda: self._tell(entry, late)))
        self._act(entry, entry.flow.start())

    def abort(self, requests: Sequence[RequestId], outcome: str = "cancelled") -> None:
        """The front half wants no more of these; unknown ones are ignored. ``outcome`` is what their timelines say."""
        for name in requests:
            if (entry := self._entries.get(name)) is not None:
                entry.timeline.outcome = outcome
                self._tell(entry, e.Aborted())
        self._room.wake()

    # -- from workers --------------------------------------------------------------------------------------------------

    def received(self, link: WorkerLink, message: FromWorker, frames: list[bytes]) -> None:
        """One message of a worker's present life."""
        worker, now_s = link.card.worker, self._clock()
        if self._workers.is_back(worker):
            for entry in self._entries.values():
                entry.flow.handle(e.WorkerBack(worker))
        if wanted := self._foresight.heard(worker, message, now_s):
            self._workers.send(worker, wanted)
        if isinstance(message, StepOutputs):
            self._steps.take(link.card, message, frames)
        elif isinstance(message, Pulse):
            if self._workers.spoke(worker, now_s):
                self._room.wake()
        elif isinstance(message, RefusedMessage):
            if (owner := self._legs.owner(message.leg)) is not None:
                if message.busy:
                    self._workers.refused(worker, message.reason, now_s)
                self._foresight.refused(owner, worker)
                reason = message.reason if message.unable else f"{worker} refused: {message.reason}"
                self._leg_refused(owner, e.Refused(message.leg, reason, message.busy, message.unable))
        elif isinstance(message, Failed):
            for leg in message.legs:
                if (owner := self._legs.owner(leg)) is not None:
                    self._legs.ended(leg)
                    if owner.track is not None:
                        owner.track.trouble(leg, "failed", message.reason)
                    self._tell(owner, e.LegFailed(leg, f"the engine of {worker} failed: {message.reason}"))
        elif isinstance(message, MoveLegs):
            for leg in message.legs:
                if (owner := self._legs.owner(leg)) is not None and self._placing.could_go_elsewhere(owner, worker):
                    self._tell(owner, e.MoveAsked(leg, message.reason))

    # -- carrying out --------------------------------------------------------------------------------------------------

    def _tell(self, entry: Entry, event: e.Event) -> None:
        self._act(entry, entry.flow.handle(event))

    def _act(self, entry: Entry, instructions: Sequence[i.Instruction], output: EngineCoreOutput | None = None) -> None:
        """Carries out what the flow wants; ``output`` is what it was told of."""
        for instruction in instructions:
            if isinstance(instruction, i.Pass):
                assert output is not None
                self._steps.pass_on(entry, instruction, output)
            elif isinstance(instruction, i.AskPlan):
                self._plan(entry, instruction)
            elif isinstance(instruction, i.AskDecode):
                self._hand_over(entry, instruction.order)
            elif isinstance(instruction, i.SendLeg):
                if not self._legs.send(entry, instruction):
                    self._leg_refused(entry, e.Refused(instruction.leg, f"{instruction.worker} cannot be reached any more"))
            elif isinstance(instruction, i.Wait):
                if entry.track is not None:
                    entry.track.waits(self._clock(), entry.flow.kept is not None)
                self._room.enter(entry)
            elif isinstance(instruction, i.Pause):
                if entry.track is not None:
                    entry.track.asks(self._clock(), kept=False)
                entry.timers.append(self._later(instruction.pause_s, lambda: self._room.wake_one(entry)))
            elif isinstance(instruction, i.AbortLeg):
                self._legs.abort(instruction.leg, instruction.worker)
            elif isinstance(instruction, i.Fail):
                self._fail(entry, instruction)
            elif isinstance(instruction, i.Finished):
                self._forget(entry)

    def _plan(self, entry: Entry, order: i.AskPlan) -> None:
        if entry.track is not None:
            entry.track.asks(self._clock(), order.keeper is not None)
        began_s = self._stopwatch()
        event = self._placing.decide(entry, order)
        self.tally.decided(_DECIDED[type(event)], self._stopwatch() - began_s)
        self._tell(entry, event)
        if isinstance(event, e.Planned):
            self._room.placed(entry)

    def _hand_over(self, entry: Entry, order: i.AskPlan) -> None:
        began_s = self._stopwatch()
        plan, decided = self._placing.hand_over(entry, order)
        if decided:
            self.tally.decided(Decided.HANDED_OVER, self._stopwatch() - began_s)
        self._tell(entry, e.Planned(plan))

    def _leg_refused(self, entry: Entry, event: e.Refused) -> None:
        entry.timeline.refusals += 1
        if entry.track is not None:
            entry.track.trouble(event.leg, "refused", event.reason)
        worker = entry.flow.legs.get(event.leg)
        if worker is not None:
            self.tally.leg_refused(worker, self._workers.role(worker))
        self._legs.ended(event.leg)
        self._tell(entry, event)

    def _fail(self, entry: Entry, fail: i.Fail) -> None:
        timeline = entry.timeline
        log.warning("router: request %s failed: %s", entry.flow.request, fail.reason)
        timeline.outcome, timeline.error, entry.fail = "failed", str(fail.reason), fail
        self._failures.put(timeline.client_request, fail)
        self._outbox.put(error_output(entry.request.request_id))

    def _forget(self, entry: Entry) -> None:
        timeline = entry.timeline
        timeline.finished_s = self._clock() - timeline.began_s
        timeline.losses = entry.flow.losses_ever
        self._room.leave(entry)
        self._legs.all_ended(entry)
        for timer in entry.timers:
            timer.cancel()
        del self._entries[entry.flow.request]
        self.tally.ended(timeline, entry.service, entry.fail)
        if entry.track is not None:
            entry.track.http.export(request_spans(entry.track, timeline, entry.service, entry.fail))
        self._room.end_trial(entry)
