"""What a router knows of its requests' future, and what it learns from their past: what is asked before a decision, and told after it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from cluster.messages import FromWorker, WantKV
from core.config import BatonConfig
from core.ids import WorkerId
from core.worker import Role, WorkerCard
from engine import expected
from router import instructions as i
from router.entry import Entry
from router.plan import SLACKS, Ask, View
from router.predict.links import LinkModel
from router.predict.predictor import Predictor
from router.prefix.adapter_promises import AdapterPromises
from router.prefix.prefixes import Prefixes
from router.service import WantedService
from router.sight import pool_of
from router.waiting import UNKNOWN, Takes

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest

_LOOKED_AT = 8
"""Of each pool, so many are asked how long a request that waits will take."""
_PARTS = [(number + 0.5) / SLACKS for number in range(SLACKS)]


class Foresight:
    """One per router, beside its dispatcher: predictions, and the index of what is cached where."""

    def __init__(self, model: str = "", predictor: Predictor | None = None, prefixes: Prefixes | None = None) -> None:
        """``model`` is what clients call it: answers of another model have other lengths."""
        self.predictor = predictor or Predictor()
        self.prefixes = prefixes or Prefixes()
        self._adapters = AdapterPromises()
        self._model = model

    @classmethod
    def of_config(cls, config: BatonConfig) -> Foresight:
        """With what can be expected before anything has happened. Raises ConfigError."""
        steps = {role: model for role in Role if (model := expected.step_model(config, role)) is not None}
        usual, known = LinkModel(), expected.link(config)
        bytes_per_s = usual.bytes_per_s if known.gbps is None else known.gbps * 1e9 / 8
        latency_s = usual.latency_s if known.latency_s is None else known.latency_s
        predictor = Predictor(steps, LinkModel(latency_s, bytes_per_s), expected.kv_bytes_per_token(config))
        return cls(config.served_name, predictor, Prefixes(config.router.prefix_index_blocks))

    # -- workers -------------------------------------------------------------------------------------------------------

    def entered(self, card: WorkerCard, seed: bytes) -> None:
        """A worker is a member. ``seed`` is what the cluster's block keys are made with."""
        self.prefixes.enter(card.worker, card.facts.block_size_tokens, seed)

    def left(self, worker: WorkerId) -> None:
        """It is none any more."""
        self.prefixes.leave(worker)
        self._adapters.forget(worker)
        self.predictor.forget(worker)

    def lost(self, worker: WorkerId) -> None:
        """It cannot be reached now."""
        self.prefixes.lost(worker)
        self._adapters.forget(worker)

    def heard(self, worker: WorkerId, message: FromWorker, now: float) -> WantKV | None:
        """Any message of a worker, in order; what is returned is to be sent to it."""
        return self.prefixes.heard(worker, message, now)

    # -- before --------------------------------------------------------------------------------------------------------

    def learn(self, entry: Entry, request: EngineCoreRequest) -> None:
        """A request has come."""
        entry.keys = self.prefixes.keys(request)

    def ask(self, entry: Entry, order: i.AskPlan, now: float) -> Ask:
        """The question for the balancer."""
        flow, timeline, service = entry.flow, entry.timeline, entry.service
        emitted = len(flow.emitted)
        left = timeline.max_tokens - emitted
        adapter = entry.adapter
        like = (adapter or self._model, service.tenant, timeline.prompt_tokens, timeline.max_tokens, emitted)
        return Ask(
            flow.request,
            entry.context_tokens,
            left,
            splittable=flow.traits.splittable and left > 1,
            excluded=order.excluded,
            keeper=order.keeper,
            urgent=bool(emitted),
            now_s=now,
            waited_s=now - timeline.began_s,
            hits=self.prefixes.cached_tokens(entry.keys, now),
            expected_tokens=self.predictor.expected_output(*like),
            likely_tokens=[self.predictor.output_quantile(part, *like) for part in _PARTS],
            ttft_s=service.ttft_s,
            tpot_s=service.tpot_s,
            first_token_early=flow.traits.first_token_counts,
            adapter=adapter,
            adapter_promised=self._adapters.of(adapter, now) if adapter is not None else frozenset(),
        )

    def takes(self, ask: Ask, service: WantedService, view: View) -> Takes | None:
        """How long it will take once a worker has it, where that is soonest among some workers and the one that has most of its prompt.
        Only by steps that these have measured themselves, as whoever is late by it may be refused; None: none have."""
        if not service.has_objective:
            return UNKNOWN
        some = {worker for role in Role for worker in islice(pool_of(view, role), _LOOKED_AT)}
        if ask.hits and (most := max(ask.hits, key=lambda worker: ask.hits[worker])) in view:
            some.add(most)
        prefills_s: list[float] = []
        steps_s: list[float] = []
        for worker in some:
            seen = view[worker]
            if seen.load.step is None:
                continue
            model, cached = self.predictor.step_model(seen), min(ask.hits.get(worker, 0), ask.prompt_tokens - 1)
            prefills_s.append(model.prefill_s(ask.prompt_tokens - cached, cached, seen.card.facts.max_num_batched_tokens))
            if seen.card.role is Role.DECODE:
                steps_s.append(model.decode_s(seen.decoding + 1, seen.decode_context_tokens + ask.prompt_tokens))
        return Takes(min(prefills_s), ask.expected_tokens * min(steps_s, default=0.0)) if prefills_s else None

    # -- after ---------------------------------------------------------------------------------------------------------

    def sent(self, entry: Entry, worker: WorkerId, now: float) -> None:
        """A leg was sent there: its prompt will be cached there soon."""
        self.prefixes.sent(worker, entry.keys, now)
        if entry.adapter is not None:
            self._adapters.made(worker, entry.adapter, now)

    def refused(self, entry: Entry, worker: WorkerId) -> None:
        """It was not taken."""
        self.prefixes.refused(worker, entry.keys)
        if entry.adapter is not None:
            self._adapters.broken(worker, entry.adapter)

    def handed_over(self, entry: Entry) -> None:
        """The decode worker's first token came: what was moved is in the timeline."""
        chosen, timeline = entry.chosen, entry.timeline
        if chosen is not None and chosen.plan.is_split and timeline.transfer_bytes:
            plan, tokens = chosen.plan, timeline.transferred_tokens
            ended_s = (timeline.handed_off_s or 0.0) + timeline.transfer_s  # pulls begin when they are asked for, or a step later
            if timeline.decoding_s is not None:
                ended_s = min(ended_s, timeline.decoding_s)  # whatever a worker says: what ends hours from now would be all that is learnt
            moved = (timeline.transfer_bytes, tokens, timeline.transfer_s, timeline.began_s + ended_s)
            self.predictor.observe_transfer(plan.prefill, plan.decode, *moved, chosen.terms.get("transfer"))

    def queued(self, entry: Entry, card: WorkerCard, queue_s: float) -> None:
        """A leg's turn came in its engine, so long after it was sent."""
        if entry.chosen is not None and entry.chosen.plan.prefill == card.worker:
            self.predictor.observe_queue(card.role, entry.chosen.terms.get("queue"), queue_s)

    def first_token(self, entry: Entry, card: WorkerCard) -> None:
        """The client's first token came from that worker."""
        happened_s = entry.timeline.first_token_s
        if entry.chosen is not None and happened_s is not None and entry.timeline.attempts == 1:
            self.predictor.observe_first_token(card.role, entry.chosen.ttft_s, happened_s)

    def finished(self, entry: Entry, card: WorkerCard) -> None:
        """It has all its tokens, the last from that worker."""
        timeline, chosen, asked = entry.timeline, entry.chosen, entry.asked
        predicted = None
        if asked is not None and timeline.attempts == 1:
            predicted = asked.expected_tokens + timeline.max_tokens - asked.max_tokens  # and those that it had then
        tenant = entry.service.tenant
        self.predictor.observe_finished(entry.adapter or self._model, tenant, timeline.prompt_tokens, timeline.output_tokens, predicted)
        happened_s = timeline.tpot_s
        if chosen is not None and happened_s is not None and timeline.attempts == 1:
            ended_s = timeline.began_s + (timeline.finished_s or 0.0)
            self.predictor.observe_tpot(card.role, chosen.tpot_s, happened_s, chosen.plan.is_split, ended_s)
