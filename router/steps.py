"""What engines have made: every output goes to its request's flow, to its timeline and into the books."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.messages import AbortLegs, LegKind, StepOutputs
from core.ids import LegId
from core.worker import WorkerCard
from engine.vllm_codec import OutputsCodec
from engine.vllm_outputs import reached_length, stopped
from router import events as e
from router import instructions as i
from router.entry import Entry
from router.foresight import Foresight
from router.handovers import Handovers
from router.legs import Legs
from router.outbox import Outbox
from router.tally import RouterTally
from router.waiting_room import WaitingRoom
from router.workers import Workers

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput

Act = Callable[[Entry, Sequence[i.Instruction], "EngineCoreOutput"], None]


class Steps:
    """Every token of every request comes through here: nothing in it may cost more than it must."""

    def __init__(
        self,
        codec: OutputsCodec,
        workers: Workers,
        legs: Legs,
        room: WaitingRoom,
        foresight: Foresight,
        outbox: Outbox,
        tally: RouterTally,
        handovers: Handovers,
        clock: Callable[[], float],
        act: Act,
    ) -> None:
        """``act`` carries out what a flow wants done with an output."""
        self._codec = codec
        self._workers = workers
        self._inflight = workers.inflight
        self._legs = legs
        self._room = room
        self._foresight = foresight
        self._outbox = outbox
        self._tally = tally
        self._handovers = handovers
        self._clock = clock
        self._now_s = 0.0
        """When the step at hand came."""
        self._act = act

    def take(self, card: WorkerCard, step: StepOutputs, frames: list[bytes]) -> None:
        """One step of a worker's engine. What of it is for clients goes out together; then those that wait may have their turn."""
        owner = self._legs.owner
        for transfer in step.transfers:
            if (entry := owner(transfer.leg)) is not None:
                entry.timeline.moved(transfer)
                if entry.track is not None:
                    entry.track.moved(transfer)
        unknown: list[LegId] = []
        more_room = False
        self._now_s = now_s = self._clock()
        with self._outbox.together():
            for output in self._codec.decode(frames):
                leg = LegId(output.request_id)
                more_room = more_room or output.finish_reason is not None
                entry = owner(leg)
                if entry is None:
                    unknown.append(leg)
                else:
                    self._output(entry, leg, card, output, step, now_s)
            if unknown:  # ended here meanwhile: an abort crossed these on the way, or the connection broke in between
                self._workers.send(card.worker, AbortLegs(unknown))
        if more_room:
            self._workers.leg_ended(card.worker)
            self._room.wake()

    def pass_on(self, entry: Entry, how: i.Pass, output: EngineCoreOutput) -> None:
        """Carries out what a flow wants done with an output. Changes it: a client does not hear of legs."""
        if how is i.Pass.HOLD:
            entry.held = output
            return
        timeline, tokens = entry.timeline, len(output.new_token_ids)
        if tokens:
            self._count(entry, tokens)
        timeline.output_tokens += tokens
        self._room.queue.counters.produced(entry.service.tenant, entry.service.weight, tokens)
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
        self._outbox.put(output)

    def _count(self, entry: Entry, tokens: int) -> None:
        """They go to the client now."""
        timeline, meter, now_s = entry.timeline, entry.meter, self._now_s
        told_s, entry.told_s = entry.told_s, now_s
        if timeline.first_token_s is None:
            timeline.first_token_s = now_s - timeline.began_s
        if meter is None:
            return
        meter.tokens.value += tokens
        if told_s is None:
            meter.first.observe(timeline.first_token_s)
            if timeline.trace_id:
                meter.first.exemplify(timeline.first_token_s, timeline.trace_id, timeline.arrived_at + timeline.first_token_s)
        else:
            meter.gaps.observe(now_s - told_s)

    def _output(self, entry: Entry, leg: LegId, card: WorkerCard, output: EngineCoreOutput, step: StepOutputs, now_s: float) -> None:
        flow, timeline = entry.flow, entry.timeline
        is_first = output.prefill_stats is not None
        self._inflight.made(leg, len(output.new_token_ids), now_s)
        if leg not in entry.begun:
            self._begun(entry, leg, card, step, now_s)
        if output.finish_reason is not None:
            self._inflight.ended(leg, now_s)
        if is_first:
            self._tell_of_prompt(entry, leg, card, output)
        recomputed = is_first and timeline.was_transferred is False
        event = e.LegOutput(leg, output.new_token_ids, _finish(output), step.handles.get(leg), recomputed)
        had_none = timeline.first_token_s is None
        self._act(entry, flow.handle(event), output)
        if had_none:
            self._foresight.first_token(entry, card)
        if timeline.outcome == "finished":
            self._foresight.finished(entry, card)
        if self._room.on_trial is entry and not flow.is_suspect:
            self._room.end_trial(entry)

    def _begun(self, entry: Entry, leg: LegId, card: WorkerCard, step: StepOutputs, now_s: float) -> None:
        """The first that is heard of a leg."""
        timeline = entry.timeline
        entry.begun.add(leg)
        self._workers.accepted(card.worker)
        entry.waits_since_s = None  # somebody works on it: the next time it waits is another time
        self._room.queue.served(entry.flow.request, now_s)
        if leg in step.scheduled and timeline.queue_s is None:
            timeline.queue_s = step.scheduled[leg]
            self._foresight.queued(entry, card, timeline.queue_s)
        if entry.kinds[leg] is not LegKind.PREFILL and timeline.decoding_s is None:
            timeline.decoding_s = now_s - timeline.began_s
        if entry.track is not None:
            entry.track.begun(leg, step.scheduled.get(leg, 0.0), now_s)

    def _tell_of_prompt(self, entry: Entry, leg: LegId, card: WorkerCard, output: EngineCoreOutput) -> None:
        """Where the prompt's KV came from."""
        timeline, stats = entry.timeline, output.prefill_stats
        assert stats is not None
        if entry.kinds[leg] is LegKind.DECODE:
            timeline.transferred_tokens = stats.num_external_cached_tokens
            timeline.decode_cached_tokens = stats.num_local_cached_tokens
            timeline.recomputed_tokens = stats.num_computed_tokens
            self._foresight.handed_over(entry)
            self._tally.handed_over(timeline)
            self._handovers.handed_over(timeline, self._now_s)
            output.prefill_stats = None  # clients are told what *prefill* found in its cache
        else:
            timeline.cached_tokens = stats.num_cached_tokens
            if entry.kinds[leg] is LegKind.WHOLE:
                self._handovers.kept_whole(self._now_s)
            self._tally.prompt_begun(card.worker, card.role, entry.context_tokens, stats.num_cached_tokens)
            if timeline.output_tokens:
                output.prefill_stats = None  # and once: what a resumed request finds is no news of its prompt


def _finish(output: EngineCoreOutput) -> e.Finish | None:
    """vLLM's reason as the flow's."""
    if output.finish_reason is None:
        return None
    if reached_length(output):
        return e.Finish.LENGTH
    return e.Finish.STOP if stopped(output) else e.Finish.ERROR
