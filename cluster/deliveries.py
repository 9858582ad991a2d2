"""What came of an engine's step, sorted by the routers whose legs it was for. Pure; the runtime sends it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.leg import LegHandler
from cluster.leg_book import LegBook
from cluster.leg_spans import LegSpans
from cluster.messages import LegKind
from core.handle import KVHandle
from core.ids import LegId, RouterId
from engine.base import StepReport, Transfer
from engine.vllm_outputs import take_queue_seconds

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs


@dataclass(slots=True)
class Delivery:
    """One router's part."""

    outputs: list[EngineCoreOutput] = field(default_factory=list)
    handles: dict[LegId, KVHandle] = field(default_factory=dict)
    """Of legs that have ended and whose KV is kept."""
    transfers: list[Transfer] = field(default_factory=list)
    queue_s: dict[LegId, float] = field(default_factory=dict)


class Deliveries:
    """A leg that ends is taken off the book, and its span ended. A transfer is told with the next output that its router gets."""

    def __init__(self, legs: LegBook, handlers: Mapping[LegKind, LegHandler], spans: LegSpans) -> None:
        self._legs = legs
        self._handlers = handlers
        self._spans = spans
        self._transfers: dict[RouterId, list[Transfer]] = defaultdict(list)

    def of_step(self, outputs: EngineCoreOutputs, report: StepReport) -> Mapping[RouterId, Delivery]:
        """To every router that has legs with outputs in it. Outputs lose what means nothing to anybody but this worker."""
        for transfer in report.transfers:
            self._spans.pulled(transfer)
            if leg := self._legs.get(transfer.leg):
                self._transfers[leg.owner].append(transfer)
        by_router: dict[RouterId, Delivery] = defaultdict(Delivery)
        for output in outputs.outputs:
            name = LegId(output.request_id)
            leg = self._legs.get(name)
            if leg is None:
                continue  # aborted while the step ran
            self._legs.told(leg, len(output.new_token_ids))
            if self._spans.legs:
                self._tell_spans(output)
            delivery = by_router[leg.owner]
            delivery.outputs.append(output)
            if output.finish_reason is not None:
                if handle := self._handlers[leg.kind].finished(leg.owner, output):
                    delivery.handles[name] = handle
                output.kv_transfer_params = None
                self._legs.end(name)
        for handler in self._handlers.values():  # after the outputs: a lease may end in the step it began in
            handler.stepped(report)
        for router, delivery in by_router.items():
            delivery.transfers = self._transfers.pop(router, [])
            delivery.queue_s = take_queue_seconds(delivery.outputs)
            if self._spans.legs:
                self._end_spans(delivery)
        return by_router

    def router_gone(self, router: RouterId) -> None:
        """Nothing is told to it any more."""
        self._transfers.pop(router, None)

    def _tell_spans(self, output: EngineCoreOutput) -> None:
        output.trace_headers = None  # the engine gives back with every token what it was given once
        prompt = output.prefill_stats
        cached_tokens = None if prompt is None else prompt.num_cached_tokens
        self._spans.told(LegId(output.request_id), len(output.new_token_ids), cached_tokens)

    def _end_spans(self, delivery: Delivery) -> None:
        for leg, queue_s in delivery.queue_s.items():
            self._spans.scheduled(leg, queue_s)
        for output in delivery.outputs:
            if output.finish_reason is not None:
                self._spans.ended(LegId(output.request_id), "finished")
