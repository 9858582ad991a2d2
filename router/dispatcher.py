"""The router's shell: carries out what flows decide. Requests and engine outputs pass through here; all decisions are elsewhere.

Everything runs on one event loop. Sending never blocks (the sockets queue without bound and a dead peer's queue is dropped
with its link), so instructions are carried out in order, synchronously.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.messages import AbortLegs, AddLeg, Failed, FromRouter, FromWorker, LegKind, StepOutputs
from cluster.messages import Refused as RefusedMessage
from core.handle import KVHandle
from core.ids import LegId, RequestId, WorkerId
from engine.sampling import without_transfer
from engine.vllm_codec import OutputsCodec, RequestCodec
from engine.vllm_outputs import error_output, reached_length, stopped
from router import flow as f
from router.balancer.balancer import Balancer
from router.inflight import InFlight
from router.link import WorkerLink
from router.plan import Ask, View, WorkerView
from router.timeline import Timeline, TimelineBook
from router.traits import traits

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    """One request with all that belongs to it."""

    request: EngineCoreRequest
    flow: f.Flow
    timeline: Timeline
    frames: Sequence[bytes]
    """The request as the client sent it, encoded once for every leg."""
    held: EngineCoreOutput | None = None
    """A prefill output whose token does not count; what it tells of the prompt goes out with decode's first output."""
    first_leg: LegId | None = None
    kinds: dict[LegId, LegKind] = field(default_factory=dict)


class Dispatcher:
    """All requests of one router. ``deliver`` gets the outputs for the front half; ``clock`` is monotonic seconds."""

    def __init__(self, balancer: Balancer, deliver: Callable[[list[EngineCoreOutput]], None], clock: Callable[[], float]) -> None:
        self._balancer = balancer
        self._deliver = deliver
        self._clock = clock
        self._links: dict[WorkerId, WorkerLink] = {}
        self._entries: dict[RequestId, _Entry] = {}
        self._owners: dict[LegId, RequestId] = {}
        self._inflight = InFlight()
        self._requests = RequestCodec()
        self._outputs = OutputsCodec()
        self.timelines = TimelineBook()

    # -- workers -------------------------------------------------------------------------------------------------------

    def link_opened(self, link: WorkerLink) -> None:
        """The worker can be sent legs as soon as its link is up."""
        self._links[link.card.worker] = link

    def link_closed(self, worker: WorkerId, reason: str) -> None:
        """The worker is no member any more; its legs are lost."""
        self._links.pop(worker, None)
        self.worker_lost(worker, reason)

    def worker_lost(self, worker: WorkerId, reason: str) -> None:
        """The worker can no longer be reached, or its life is over."""
        for entry in list(self._entries.values()):
            lost = [leg for leg, holder in entry.flow.legs.items() if holder == worker]
            for leg in lost:
                self._ended(leg)
            if lost:
                self._act(entry, entry.flow.handle(f.WorkerLost(worker, reason)))

    def view(self) -> View:
        """The reachable workers as this router sees them."""
        return {
            worker: WorkerView(link.card, link.load, self._inflight.prefill_tokens(worker), self._inflight.decode_tokens(worker))
            for worker, link in self._links.items()
            if link.up
        }

    # -- requests ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def outstanding_legs(self) -> int:
        """Legs sent and not ended."""
        return len(self._inflight)

    def add(self, request: EngineCoreRequest) -> None:
        """Starts a request. Its outputs come through ``deliver``; every request ends with exactly one finished output."""
        sampling = request.sampling_params
        if sampling is not None:
            request.sampling_params = sampling = without_transfer(sampling)
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
        entry = _Entry(request, f.Flow(name, how), timeline, self._requests.encode(request))
        self._entries[name] = entry
        self.timelines.add(timeline)
        self._act(entry, entry.flow.start())

    def abort(self, requests: Sequence[RequestId], outcome: str = "cancelled") -> None:
        """The front half wants no more of these; unknown ones are ignored. ``outcome`` is what their timelines say."""
        for name in requests:
            entry = self._entries.get(name)
            if entry is not None:
                entry.timeline.outcome = outcome
                self._act(entry, entry.flow.handle(f.Aborted()))

    # -- from workers --------------------------------------------------------------------------------------------------

    def received(self, link: WorkerLink, message: FromWorker, frames: list[bytes]) -> None:
        """One message of a worker's present life."""
        if isinstance(message, StepOutputs):
            self._step(link, message, frames)
        elif isinstance(message, RefusedMessage):
            self._leg_event(message.leg, f.Refused(message.leg, f"{link.card.worker} refused: {message.reason}"))
        elif isinstance(message, Failed):
            for leg in message.legs:
                self._leg_event(leg, f.LegFailed(leg, f"the engine of {link.card.worker} failed: {message.reason}"))

    def _leg_event(self, leg: LegId, event: f.Event) -> None:
        entry = self._entry_of(leg)
        if entry is not None:
            self._ended(leg)
            self._act(entry, entry.flow.handle(event))

    def _ended(self, leg: LegId) -> None:
        """Nothing more is expected of a leg; should its worker say something all the same, it is told to stop."""
        self._inflight.ended(leg)
        self._owners.pop(leg, None)

    def _entry_of(self, leg: LegId) -> _Entry | None:
        owner = self._owners.get(leg)
        return self._entries.get(owner) if owner is not None else None

    def _step(self, link: WorkerLink, step: StepOutputs, frames: list[bytes]) -> None:
        for transfer in step.transfers:
            if (entry := self._entry_of(transfer.leg)) is not None:
                entry.timeline.moved(transfer)
        ready: list[EngineCoreOutput] = []
        unknown: list[LegId] = []
        for output in self._outputs.decode(frames):
            leg = LegId(output.request_id)
            entry = self._entry_of(leg)
            if entry is None:
                unknown.append(leg)
                continue
            is_first = output.prefill_stats is not None
            self._note(entry, leg, output, step)
            recomputed = is_first and entry.timeline.was_transferred is False
            event = f.LegOutput(leg, output.new_token_ids, _finish(output), step.handles.get(leg), recomputed)
            self._act(entry, entry.flow.handle(event), output, ready)
        if unknown:  # ended here meanwhile: an abort crossed these on the way, or the connection broke in between
            self._send(link.card.worker, AbortLegs(unknown))
        if ready:
            self._deliver(ready)

    def _note(self, entry: _Entry, leg: LegId, output: EngineCoreOutput, step: StepOutputs) -> None:
        """Books and timeline, before the flow moves on."""
        self._inflight.prompt_done(leg)
        if output.finish_reason is not None:
            self._inflight.ended(leg)
        timeline, now = entry.timeline, self._clock() - entry.timeline.began_s
        if leg in step.scheduled and timeline.queue_s is None:
            timeline.queue_s = step.scheduled[leg]
        stats = output.prefill_stats
        if entry.kinds[leg] is LegKind.DECODE:
            if timeline.decoding_s is None:
                timeline.decoding_s = now
            if stats is not None:
                timeline.transferred_tokens = stats.num_external_cached_tokens
                timeline.decode_cached_tokens = stats.num_local_cached_tokens
                timeline.recomputed_tokens = stats.num_computed_tokens
                output.prefill_stats = None  # clients are told what *prefill* found in its cache
        elif stats is not None:
            timeline.cached_tokens = stats.num_cached_tokens

    # -- carrying out --------------------------------------------------------------------------------------------------

    def _act(
        self,
        entry: _Entry,
        instructions: Sequence[f.Instruction],
        output: EngineCoreOutput | None = None,
        ready: list[EngineCoreOutput] | None = None,
    ) -> None:
        for instruction in instructions:
            if isinstance(instruction, f.Pass):
                assert output is not None
                assert ready is not None
                self._pass(entry, instruction, output, ready)
            elif isinstance(instruction, f.AskPlan):
                self._plan(entry, instruction)
            elif isinstance(instruction, f.SendLeg):
                self._send_leg(entry, instruction, ready)
            elif isinstance(instruction, f.AbortLeg):
                self._ended(instruction.leg)
                self._send(instruction.worker, AbortLegs([instruction.leg]))
            elif isinstance(instruction, f.Fail):
                self._fail(entry, instruction.reason, ready)
            elif isinstance(instruction, f.Finished):
                self._forget(entry)

    def _pass(self, entry: _Entry, how: f.Pass, output: EngineCoreOutput, ready: list[EngineCoreOutput]) -> None:
        if how is f.Pass.HOLD:
            entry.held = output
            return
        timeline = entry.timeline
        if timeline.first_token_s is None and output.new_token_ids:
            timeline.first_token_s = self._clock() - timeline.began_s
        timeline.output_tokens += len(output.new_token_ids)
        if entry.held is not None:
            output.new_prompt_logprobs_tensors = entry.held.new_prompt_logprobs_tensors
            output.prefill_stats = entry.held.prefill_stats
            entry.held = None
        if how is f.Pass.ON_UNFINISHED:
            output.finish_reason = output.stop_reason = None
        elif output.finish_reason is not None:
            timeline.outcome = "finished"
        output.kv_transfer_params = None
        output.request_id = entry.request.request_id
        ready.append(output)

    def _plan(self, entry: _Entry, ask: f.AskPlan) -> None:
        entry.held = None
        how = entry.flow.traits
        timeline = entry.timeline
        question = Ask(entry.flow.request, timeline.prompt_tokens, timeline.max_tokens, how.splittable, ask.excluded)
        decision = self._balancer.choose(question, self.view())
        timeline.decided(decision)
        self._inflight.unplanned(entry.flow.request)
        if decision.chosen is not None and decision.chosen.plan.is_split:
            tokens = timeline.prompt_tokens + timeline.max_tokens
            self._inflight.planned(entry.flow.request, decision.chosen.plan.decode, tokens)
        event: f.Event = f.NoPlan() if decision.chosen is None else f.Planned(decision.chosen.plan)
        self._act(entry, entry.flow.handle(event))

    def _send_leg(self, entry: _Entry, order: f.SendLeg, ready: list[EngineCoreOutput] | None) -> None:
        timeline = entry.timeline
        link = self._links.get(order.worker)
        self._owners[order.leg] = entry.flow.request
        entry.kinds[order.leg] = order.kind
        if link is None or not link.up:  # lost since it was chosen: what is sent now would wait for a worker that may never come back
            self._ended(order.leg)
            self._act(entry, entry.flow.handle(f.Refused(order.leg, f"{order.worker} cannot be reached any more")), None, ready)
            return
        context = timeline.prompt_tokens + len(order.emitted)
        left = max(0, timeline.max_tokens - len(order.emitted))
        computes = order.kind is not LegKind.DECODE
        if order.kind is not LegKind.PREFILL:
            self._inflight.unplanned(entry.flow.request)
        self._inflight.sent(order.leg, order.worker, context if computes else 0, 0 if order.kind is LegKind.PREFILL else context + left)
        now = self._clock() - timeline.began_s
        if order.kind is LegKind.DECODE:
            timeline.handed_off_s = now
        else:
            timeline.sent_s = now
        handle = order.handle if order.handle is not None and self._can_be_read(order.handle) else None
        message = AddLeg(order.leg, link.card.epoch, order.kind, context, list(order.emitted), order.first_token_counts, handle)
        self._send(order.worker, message, entry.frames)

    def _can_be_read(self, handle: KVHandle) -> bool:
        """Whether the life of the worker that keeps the KV goes on; without it decode computes the prompt itself, at once."""
        keeper = self._links.get(handle.worker)
        return keeper is not None and keeper.up and keeper.card.epoch == handle.epoch

    def _fail(self, entry: _Entry, reason: str, ready: list[EngineCoreOutput] | None) -> None:
        log.warning("router: request %s failed: %s", entry.flow.request, reason)
        entry.timeline.outcome, entry.timeline.error = "failed", reason
        last = error_output(entry.request.request_id)
        if ready is None:
            self._deliver([last])
        else:
            ready.append(last)  # behind this step's tokens, which are on their way to the client

    def _forget(self, entry: _Entry) -> None:
        entry.timeline.finished_s = self._clock() - entry.timeline.began_s
        self._inflight.unplanned(entry.flow.request)
        for leg in entry.kinds:
            self._inflight.ended(leg)
            self._owners.pop(leg, None)
        del self._entries[entry.flow.request]

    def _send(self, worker: WorkerId, message: FromRouter, frames: Sequence[bytes] = ()) -> None:
        link = self._links.get(worker)
        if link is not None:
            link.send(message, frames)


def _finish(output: EngineCoreOutput) -> f.Finish | None:
    """vLLM's reason as the flow's."""
    if output.finish_reason is None:
        return None
    if reached_length(output):
        return f.Finish.LENGTH
    return f.Finish.STOP if stopped(output) else f.Finish.ERROR
