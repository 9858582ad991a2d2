"""The router's shell: carries out what flows decide. Requests and engine outputs pass through here; all decisions are elsewhere.

Everything runs on one event loop. Sending never blocks (the sockets queue without bound and a dead peer's queue is dropped
with its link), so instructions are carried out in order, synchronously.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.messages import AbortLegs, AddLeg, Failed, FromWorker, LegKind, MoveLegs, Pulse, StepOutputs
from cluster.messages import Refused as RefusedMessage
from core.handle import KVHandle
from core.ids import LegId, RequestId, WorkerId
from core.metrics import RouterNumbers, WorkerNumbers
from core.worker import WorkerCard
from engine.sampling import without_transfer
from engine.vllm_codec import OutputsCodec, RequestCodec
from engine.vllm_outputs import error_output, reached_length, stopped
from router import events as e
from router import instructions as i
from router.balancer.balancer import Balancer
from router.decision_note import current_note
from router.early_refusal import Predicted, early_refusal, refusal_text
from router.entry import Entry
from router.flow import Flow, Phase
from router.foresight import Foresight
from router.inflight import Work
from router.limits import Limits
from router.link import WorkerLink
from router.plan import Ask, Scored, View
from router.queue import RequestQueue
from router.retry import Retry
from router.service import ORDINARY, WantedService, current_service
from router.timeline import Timeline, TimelineBook
from router.timers import Later, Timer, on_this_loop
from router.traits import traits
from router.waiting import Rank, Waiting
from router.workers import Workers

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest

log = logging.getLogger(__name__)

_SWEEP_S = 0.25
"""How often a queue that is not empty is looked through, whatever is heard of workers."""
_FAILURES_KEPT = 10_000
_PLACED = frozenset({Phase.PREFILLING, Phase.DECODING})
_PASSED_AT_MOST = 8
"""Waiting requests for which nobody has room before the search for a smaller one ends: each costs a decision."""


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
    ) -> None:
        self._balancer = balancer
        self._deliver = deliver
        self._clock = clock
        self._limits = limits or Limits()
        self._retry = retry or Retry()
        self._later = later
        self._foresight = foresight or Foresight()
        self._workers = Workers(self._limits)
        self._entries: dict[RequestId, Entry] = {}
        self._owners: dict[LegId, RequestId] = {}
        self._inflight = self._workers.inflight
        self._cut_off: set[WorkerId] = set()
        """Members that cannot be reached now."""
        self._on_trial: RequestId | None = None
        """The one request that is tried although its next loss would be its last."""
        self._sweep: Timer | None = None
        self._waking = False
        self._requests = requests_codec or RequestCodec()
        self._outputs = outputs_codec or OutputsCodec()
        self._failures: OrderedDict[str, i.Fail] = OrderedDict()
        self.queue = RequestQueue(self._limits.queue)
        self.timelines = TimelineBook()

    # -- workers -------------------------------------------------------------------------------------------------------

    def link_opened(self, link: WorkerLink, seed: bytes = b"") -> None:
        """The worker can be sent legs as soon as its link is up. ``seed`` is what the cluster's block keys are made with."""
        self._workers.enter(link)
        self._foresight.entered(link.card, seed)

    def link_closed(self, worker: WorkerId, reason: str) -> None:
        """The worker is no member any more; its legs are lost."""
        self._workers.leave(worker)
        self.worker_lost(worker, reason)
        self._inflight.forget(worker)
        self._foresight.left(worker)
        self._cut_off.discard(worker)

    def worker_lost(self, worker: WorkerId, reason: str) -> None:
        """The worker can no longer be reached, or its life is over."""
        self._cut_off.add(worker)
        self._foresight.lost(worker)
        for entry in list(self._entries.values()):
            lost = [leg for leg, holder in entry.flow.legs.items() if holder == worker]
            for leg in lost:
                self._ended(leg)
            if lost:
                # Should it live, and only the connection be gone, it is told when that is back. A worker that is gone never hears it.
                self._workers.send(worker, AbortLegs(lost))
                self._act(entry, entry.flow.handle(e.WorkerLost(worker, reason)))

    def view(self) -> View:
        """The reachable workers as this router sees them."""
        return self._workers.view()

    @property
    def has_ready_worker(self) -> bool:
        """Whether anybody could be given a request at all, with room or without."""
        return self._workers.any_ready

    # -- requests ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def outstanding_legs(self) -> int:
        """Legs sent and not ended."""
        return len(self._inflight)

    @property
    def numbers(self) -> RouterNumbers:
        """What Prometheus is told."""
        workers = [WorkerNumbers(worker, seen.card.role, seen.load, seen.legs) for worker, seen in self.view().items()]
        predictions = self._foresight.predictor.error_numbers
        return RouterNumbers(len(self._entries), len(self.queue), self.queue.tokens, workers, predictions)

    def overload(self, requests: int = 1, service: WantedService = ORDINARY) -> str | None:
        """Why new requests that are to get ``service`` are refused now, in words for the client; None while they are taken."""
        return self.queue.full(self._clock(), requests, service)

    def retry_after_s(self) -> float:
        """When a client that is refused now should try again."""
        if not self.has_ready_worker:
            return self._limits.retry_after_s
        return self.queue.retry_after_s(self._clock(), self._limits.retry_after_s)

    def refusal(self, service: WantedService = ORDINARY) -> tuple[str, float] | None:
        """Why one new request is refused now, and when to try again; None while it is taken. Cheap: asked before it is read."""
        reason = self.overload(1, service)
        return None if reason is None else (reason, self.retry_after_s())

    def take_failure(self, client_request: str) -> i.Fail | None:
        """Why a request of this client was given up, once."""
        return self._failures.pop(client_request, None)

    def add(self, request: EngineCoreRequest) -> None:
        """Starts a request. Its outputs come through ``deliver``; every request ends with exactly one finished output."""
        sampling = request.sampling_params
        if sampling is not None:
            request.sampling_params = sampling = without_transfer(sampling)
        service = current_service()
        request.priority = service.priority  # for engines that are told to schedule by it; the others do not look
        how = traits(request)
        name = RequestId(request.request_id)
        timeline = Timeline(
            request=name,
            client_request=request.external_req_id or request.request_id,
            arrived_at=request.arrival_time,
            began_s=self._clock(),
            prompt_tokens=len(request.prompt_token_ids or ()),
            max_tokens=(sampling.max_tokens if sampling else None) or 0,
            split_reason=how.reason,
        )
        entry = Entry(request, Flow(name, how, self._retry), timeline, self._requests.encode(request), service)
        entry.note = current_note()
        self._foresight.learn(entry, request)
        self._entries[name] = entry
        self.timelines.add(timeline)
        limits_s = [limit_s for limit_s in (self._limits.request_timeout_s, entry.service.deadline_s) if limit_s is not None]
        if limits_s:
            late = e.GivenUp(e.FailKind.TIMED_OUT, f"not done after {min(limits_s):g} s")
            entry.timers.append(self._later(min(limits_s), lambda: self._act(entry, entry.flow.handle(late))))
        self._act(entry, entry.flow.start())

    def abort(self, requests: Sequence[RequestId], outcome: str = "cancelled") -> None:
        """The front half wants no more of these; unknown ones are ignored. ``outcome`` is what their timelines say."""
        for name in requests:
            entry = self._entries.get(name)
            if entry is not None:
                entry.timeline.outcome = outcome
                self._act(entry, entry.flow.handle(e.Aborted()))
        self._wake()

    # -- from workers --------------------------------------------------------------------------------------------------

    def received(self, link: WorkerLink, message: FromWorker, frames: list[bytes]) -> None:
        """One message of a worker's present life."""
        worker = link.card.worker
        if worker in self._cut_off:
            self._cut_off.remove(worker)
            for each in self._entries.values():
                each.flow.handle(e.WorkerBack(worker))
        if wanted := self._foresight.heard(worker, message, self._clock()):
            self._workers.send(worker, wanted)
        if isinstance(message, StepOutputs):
            self._step(link, message, frames)
        elif isinstance(message, Pulse):
            if self._workers.spoke(worker, self._clock()):
                self._wake()
        elif isinstance(message, RefusedMessage):
            if message.busy and message.leg in self._owners:
                self._workers.refused(worker, message.reason, self._clock())
            if (entry := self._entry_of(message.leg)) is not None:
                self._foresight.refused(entry, worker)
            self._leg_event(message.leg, e.Refused(message.leg, f"{worker} refused: {message.reason}", message.busy))
        elif isinstance(message, Failed):
            for leg in message.legs:
                self._leg_event(leg, e.LegFailed(leg, f"the engine of {worker} failed: {message.reason}"))
        elif isinstance(message, MoveLegs):
            for leg in message.legs:
                if (entry := self._entry_of(leg)) is not None and self._could_go_elsewhere(entry, worker):
                    self._act(entry, entry.flow.handle(e.MoveAsked(leg, message.reason)))

    def _leg_event(self, leg: LegId, event: e.Refused | e.LegFailed, ready: list[EngineCoreOutput] | None = None) -> None:
        entry = self._entry_of(leg)
        if entry is not None:
            entry.timeline.refusals += isinstance(event, e.Refused)
            self._ended(leg)
            self._act(entry, entry.flow.handle(event), None, ready)

    def _ended(self, leg: LegId) -> None:
        """Nothing more is expected of a leg; should its worker say something all the same, it is told to stop."""
        self._inflight.ended(leg, self._clock())
        self._owners.pop(leg, None)

    def _entry_of(self, leg: LegId) -> Entry | None:
        owner = self._owners.get(leg)
        return self._entries.get(owner) if owner is not None else None

    def _step(self, link: WorkerLink, step: StepOutputs, frames: list[bytes]) -> None:
        for transfer in step.transfers:
            if (entry := self._entry_of(transfer.leg)) is not None:
                entry.timeline.moved(transfer)
        ready: list[EngineCoreOutput] = []
        unknown: list[LegId] = []
        more_room = False
        for output in self._outputs.decode(frames):
            leg = LegId(output.request_id)
            more_room = more_room or output.finish_reason is not None
            entry = self._entry_of(leg)
            if entry is None:
                unknown.append(leg)
                continue
            is_first = output.prefill_stats is not None
            self._note(entry, leg, link.card, output, step)
            recomputed = is_first and entry.timeline.was_transferred is False
            event = e.LegOutput(leg, output.new_token_ids, _finish(output), step.handles.get(leg), recomputed)
            had_none = entry.timeline.first_token_s is None
            self._act(entry, entry.flow.handle(event), output, ready)
            if had_none:
                self._foresight.first_token(entry, link.card)
            if entry.timeline.outcome == "finished":
                self._foresight.finished(entry, link.card)
            if self._on_trial == entry.flow.request and not entry.flow.is_suspect:
                self._end_trial(entry)
        if unknown:  # ended here meanwhile: an abort crossed these on the way, or the connection broke in between
            self._workers.send(link.card.worker, AbortLegs(unknown))
        if ready:
            self._deliver(ready)
        if more_room:
            self._workers.leg_ended(link.card.worker)
            self._wake()

    def _note(self, entry: Entry, leg: LegId, card: WorkerCard, output: EngineCoreOutput, step: StepOutputs) -> None:
        """Books and timeline, before the flow moves on."""
        now_s = self._clock()
        self._inflight.made(leg, len(output.new_token_ids), now_s)
        if leg not in entry.begun:
            entry.begun.add(leg)
            self._workers.accepted(card.worker)
            entry.waits_since_s = None  # somebody works on it: the next time it waits is another time
            self.queue.served(entry.flow.request, now_s)
        if output.finish_reason is not None:
            self._inflight.ended(leg, now_s)
        timeline, now = entry.timeline, now_s - entry.timeline.began_s
        if leg in step.scheduled and timeline.queue_s is None:
            timeline.queue_s = step.scheduled[leg]
            self._foresight.queued(entry, card, timeline.queue_s)
        stats = output.prefill_stats
        if entry.kinds[leg] is not LegKind.PREFILL and timeline.decoding_s is None:
            timeline.decoding_s = now
        if entry.kinds[leg] is LegKind.DECODE:
            if stats is not None:
                timeline.transferred_tokens = stats.num_external_cached_tokens
                timeline.decode_cached_tokens = stats.num_local_cached_tokens
                timeline.recomputed_tokens = stats.num_computed_tokens
                self._foresight.handed_over(entry)
                output.prefill_stats = None  # clients are told what *prefill* found in its cache
        elif stats is not None:
            timeline.cached_tokens = stats.num_cached_tokens
            if timeline.output_tokens:
                output.prefill_stats = None  # and once: what a resumed request finds is no news of its prompt

    # -- carrying out --------------------------------------------------------------------------------------------------

    def _act(
        self,
        entry: Entry,
        instructions: Sequence[i.Instruction],
        output: EngineCoreOutput | None = None,
        ready: list[EngineCoreOutput] | None = None,
    ) -> None:
        for instruction in instructions:
            if isinstance(instruction, i.Pass):
                assert output is not None
                assert ready is not None
                self._pass(entry, instruction, output, ready)
            elif isinstance(instruction, i.AskPlan):
                self._plan(entry, instruction, ready)
            elif isinstance(instruction, i.SendLeg):
                self._send_leg(entry, instruction, ready)
            elif isinstance(instruction, i.Wait):
                self._wait(entry)
            elif isinstance(instruction, i.Pause):
                entry.timers.append(self._later(instruction.pause_s, lambda: self._wake_one(entry)))
            elif isinstance(instruction, i.AbortLeg):
                self._ended(instruction.leg)
                self._workers.send(instruction.worker, AbortLegs([instruction.leg]))
            elif isinstance(instruction, i.Fail):
                self._fail(entry, instruction, ready)
            elif isinstance(instruction, i.Finished):
                self._forget(entry)

    def _pass(self, entry: Entry, how: i.Pass, output: EngineCoreOutput, ready: list[EngineCoreOutput]) -> None:
        if how is i.Pass.HOLD:
            entry.held = output
            return
        timeline = entry.timeline
        if timeline.first_token_s is None and output.new_token_ids:
            timeline.first_token_s = self._clock() - timeline.began_s
        timeline.output_tokens += len(output.new_token_ids)
        self.queue.counters.produced(entry.service.tenant, entry.service.weight, len(output.new_token_ids))
        if entry.held is not None:
            output.new_prompt_logprobs_tensors = entry.held.new_prompt_logprobs_tensors
            output.prefill_stats = entry.held.prefill_stats
            entry.held = None
        if how is i.Pass.ON_UNFINISHED:
            output.finish_reason = output.stop_reason = None
        elif output.finish_reason is not None:
            timeline.outcome = "finished"
        output.kv_transfer_params = None
        output.request_id = entry.request.request_id
        ready.append(output)

    def _plan(self, entry: Entry, ask: i.AskPlan, ready: list[EngineCoreOutput] | None) -> None:
        flow, timeline = entry.flow, entry.timeline
        if ask.keeper is None:
            entry.held = None
        self._inflight.unplanned(flow.request)
        timeline.losses = flow.losses_ever
        # One suspect at a time, and nobody passes those that have been passed often enough.
        bars = flow.is_suspect and self._on_trial not in {None, flow.request}
        if bars or (entry.rank is Rank.NEW and not entry.is_turn and not self.queue.lets_pass):
            self._act(entry, flow.handle(e.NoRoom()), None, ready)
            return
        question = self._foresight.ask(entry, ask, self._clock())
        view = self.view()
        decision = self._balancer.choose(question, view)
        if decision.chosen is None:
            hopeless = decision.hopeless and entry.rank is Rank.NEW and self._workers.all_up
            why = e.GivenUp(e.FailKind.ENGINE, "; ".join(f"{worker}: {reason}" for worker, reason in decision.rejected.items()))
            self._act(entry, flow.handle(why if hopeless else e.NoRoom()), None, ready)
            return
        if self._is_refused(entry, question, decision.chosen, view):
            return
        if flow.is_suspect:
            self._on_trial = flow.request
        left = timeline.max_tokens - len(flow.emitted)
        timeline.decided(question, decision, self._clock() - timeline.began_s)
        entry.placed(question, decision.chosen)
        self._balancer.follow(question, decision.chosen)
        plan = decision.chosen.plan
        if plan.is_split and ask.keeper is None:
            ends_s = entry.ends_s(question.now_s)
            self._inflight.planned(flow.request, plan.decode, Work(0, 0, entry.context_tokens + left, entry.context_tokens, ends_s))
        self._act(entry, flow.handle(e.Planned(plan)), None, ready)
        if not entry.is_turn and flow.phase in _PLACED:
            self.queue.placed(flow.request, entry.service, entry.context_tokens)  # it may have passed some that wait

    def _is_refused(self, entry: Entry, question: Ask, chosen: Scored, view: View) -> bool:
        """Whether a new request, or in its place one that waits, is refused because what it is promised cannot be kept.

        Only by predictions from measured steps: by others a cluster might refuse everything, and never learn better.
        """
        service, wanted = entry.service, self._limits.queue.refuse_hopeless and entry.service.has_objective
        measured = all(view[worker].load.step is not None for worker in (chosen.plan.prefill, chosen.plan.decode) if worker in view)
        if not wanted or not measured or entry.rank is not Rank.NEW or entry.timeline.attempts:
            return False
        answer_s = None if chosen.tpot_s is None else question.expected_tokens * chosen.tpot_s
        predicted = Predicted(chosen.ttft_s, chosen.tpot_s, answer_s)
        now = question.now_s
        refusal = early_refusal(service, predicted, self.queue.in_turn(now), now, self.queue.retry_after_s(now, 1.0))
        if refusal is None:
            return False
        loser = entry if refusal.instead is None else self._entries.get(refusal.instead)
        if loser is not None:
            self._refuse(loser, refusal.reason, refusal.retry_after_s)
        return loser is entry

    def _could_go_elsewhere(self, entry: Entry, worker: WorkerId) -> bool:
        """Whether somebody has room for a request whose worker has to go. If not it runs on, and the worker asks again."""
        question = self._foresight.ask(entry, i.AskPlan(frozenset({worker})), self._clock())
        return self._balancer.is_possible(question, self.view())

    def _end_trial(self, entry: Entry) -> None:
        """The suspect is none, or is gone: the next one may be tried."""
        if self._on_trial == entry.flow.request:
            self._on_trial = None
            self._wake()

    def _send_leg(self, entry: Entry, order: i.SendLeg, ready: list[EngineCoreOutput] | None) -> None:
        timeline = entry.timeline
        epoch = self._workers.epoch(order.worker)
        self._owners[order.leg] = entry.flow.request
        entry.kinds[order.leg] = order.kind
        if epoch is None:  # lost since it was chosen: what is sent now would wait for a worker that may never come back
            self._leg_event(order.leg, e.Refused(order.leg, f"{order.worker} cannot be reached any more"), ready)
            return
        context = entry.context_tokens
        left = max(0, timeline.max_tokens - len(order.emitted))
        computes = order.kind is not LegKind.DECODE
        if order.kind is not LegKind.PREFILL:
            self._inflight.unplanned(entry.flow.request)
        decodes = 0 if order.kind is LegKind.PREFILL else context + left
        now = self._clock() - timeline.began_s
        uncached = context - min(entry.hits.get(order.worker, 0), context - 1)
        ends_s = entry.ends_s(timeline.began_s + now) if decodes else None
        work = Work(context if computes else 0, uncached if computes else 0, decodes, context, ends_s)
        self._inflight.sent(order.leg, order.worker, work, timeline.began_s + now)
        self._foresight.sent(entry, order.worker, timeline.began_s + now)
        if order.kind is LegKind.DECODE:
            timeline.handed_off_s = now
        else:
            timeline.sent_s = now
            if order.emitted:
                timeline.resumes += 1
        handle = order.handle if order.handle is not None and self._can_be_read(entry, order.handle) else None
        if order.kind is LegKind.PREFILL or handle is None:
            entry.kept_until_s = None
        message = AddLeg(order.leg, epoch, order.kind, context, list(order.emitted), order.first_token_counts, handle)
        self._workers.send(order.worker, message, entry.frames)

    def _can_be_read(self, entry: Entry, handle: KVHandle) -> bool:
        """Whether the lease and the life of the worker that keeps the KV go on; if not, decode computes the prompt itself, at once."""
        if entry.kept_until_s is None:
            entry.kept_until_s = self._clock() + handle.expires_in_s
        return self._workers.epoch(handle.worker) == handle.epoch and self._clock() < entry.kept_until_s

    def _fail(self, entry: Entry, fail: i.Fail, ready: list[EngineCoreOutput] | None) -> None:
        timeline = entry.timeline
        log.warning("router: request %s failed: %s", entry.flow.request, fail.reason)
        timeline.outcome, timeline.error = "failed", fail.reason
        self._failures[timeline.client_request] = fail
        while len(self._failures) > _FAILURES_KEPT:  # of clients that left before they could be told
            self._failures.popitem(last=False)
        last = error_output(entry.request.request_id)
        if ready is None:
            self._deliver([last])
        else:
            ready.append(last)  # behind this step's tokens, which are on their way to the client

    def _forget(self, entry: Entry) -> None:
        now = self._clock()
        entry.timeline.finished_s = now - entry.timeline.began_s
        entry.timeline.losses = entry.flow.losses_ever
        self._leave_queue(entry)
        self._inflight.unplanned(entry.flow.request)
        for leg in entry.kinds:
            self._ended(leg)
        for timer in entry.timers:
            timer.cancel()
        del self._entries[entry.flow.request]
        self._end_trial(entry)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _wait(self, entry: Entry) -> None:
        """Into the queue, or, if it was just tried out of it, to the place there it had."""
        now = self._clock()
        rank = entry.rank
        if entry.waits_since_s is None:
            entry.waits_since_s = now
        longest_s = self._limits.queue.longest_wait_s(entry.service) if rank is Rank.NEW else self._limits.give_up_after_s
        tokens = 0 if rank is Rank.HANDED_OFF else entry.context_tokens
        since_s = entry.waits_since_s
        self.queue.enter(Waiting(entry.flow.request, rank, tokens, since_s, since_s + longest_s, entry.service), now)
        if entry.entered_s is None:
            entry.entered_s = now
        self._end_trial(entry)  # nobody has room for it: others need not wait for it as well
        if self._sweep is None:
            self._sweep = self._later(_SWEEP_S, self._look_through_queue)
        for loser in self.queue.surplus():  # perhaps this one
            if (other := self._entries.get(loser.request)) is not None:
                self._refuse(other, "requests that go first have filled the queue")

    def _refuse(self, entry: Entry, reason: str, retry_after_s: float | None = None) -> None:
        """There is no point in its waiting."""
        text = refusal_text(reason, self.retry_after_s() if retry_after_s is None else retry_after_s)
        self._act(entry, entry.flow.handle(e.GivenUp(e.FailKind.OVERLOADED, text)))

    def _leave_queue(self, entry: Entry) -> None:
        """It is gone from there for good."""
        self.queue.leave(entry.flow.request, self._clock())
        self._count_wait(entry)

    def _count_wait(self, entry: Entry) -> None:
        if entry.entered_s is not None:
            entry.timeline.waited_s += self._clock() - entry.entered_s
            entry.entered_s = None

    def _wake(self) -> None:
        """Places waiting requests, first come first served; those for whom nobody has room are passed, some of them, for a while."""
        if self._waking or not len(self.queue):
            return
        self._waking = True  # placing a request may end others, which calls here again
        passed = 0
        try:
            for waiting in self.queue.in_turn(self._clock()):
                entry = self._entries.get(waiting.request)
                if entry is None or waiting.request not in self.queue:
                    continue  # it ended while another was placed
                self._wake_one(entry)
                if waiting.request in self.queue:
                    passed += 1
                    if passed >= _PASSED_AT_MOST or not self.queue.lets_pass:
                        return
        finally:
            self._waking = False

    def _wake_one(self, entry: Entry) -> None:
        """It is this request's turn. Stays in the queue where nobody has room."""
        kept = entry.flow.kept
        entry.is_turn = True
        self._act(entry, entry.flow.handle(e.Woken(kept is None or self._can_be_read(entry, kept))))
        entry.is_turn = False
        if entry.flow.phase in _PLACED:
            self.queue.placed(entry.flow.request)
            self._count_wait(entry)

    def _look_through_queue(self) -> None:
        """Ends what has waited too long, and tries again: nothing may be stuck because nobody said anything."""
        self._sweep = None
        for waiting in self.queue.overdue(self._clock()):
            entry = self._entries.get(waiting.request)
            if entry is not None:
                self._act(entry, entry.flow.handle(self._too_late(waiting)))
        self._wake()
        if len(self.queue) and self._sweep is None:
            self._sweep = self._later(_SWEEP_S, self._look_through_queue)

    def _too_late(self, waiting: Waiting) -> e.GivenUp:
        waited_s = self._clock() - waiting.since_s
        if not self.has_ready_worker:
            return e.GivenUp(e.FailKind.UNAVAILABLE, f"no worker was ready for {waited_s:.1f} s")
        return e.GivenUp(e.FailKind.OVERLOADED, refusal_text(f"no worker had room for {waited_s:.1f} s", self.retry_after_s()))


def _finish(output: EngineCoreOutput) -> e.Finish | None:
    """vLLM's reason as the flow's."""
    if output.finish_reason is None:
        return None
    if reached_length(output):
        return e.Finish.LENGTH
    return e.Finish.STOP if stopped(output) else e.Finish.ERROR
