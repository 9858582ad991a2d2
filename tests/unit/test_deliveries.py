"""What of an engine's step goes to which router."""

from __future__ import annotations

import pytest
from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreOutput, EngineCoreOutputs, FinishReason

from cluster.deliveries import Deliveries
from cluster.leg import LegHandler
from cluster.leg_book import LegBook
from cluster.leg_spans import LegSpans
from cluster.messages import AddLeg, LegKind
from core.handle import KVHandle
from core.ids import Epoch, LegId, RouterId, WorkerId
from engine.base import EngineStats, StepReport, Transfer

A, B = RouterId("router-a"), RouterId("router-b")
FIRST, SECOND, OTHERS = LegId("a:1"), LegId("a:2"), LegId("b:1")
STATS = EngineStats(num_blocks=100)


class Keeps(LegHandler):
    """Keeps the KV of every leg that ends; ``stepped`` tells how many had ended by then."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.ended_by: list[int] = []

    def engine_request(self, add, request):
        raise AssertionError("nothing is added here")

    def finished(self, owner: RouterId, output: EngineCoreOutput) -> KVHandle:
        self.kept.append(output.request_id)
        return KVHandle(WorkerId("w"), Epoch(1), LegId(output.request_id), 1, 1, 10.0, {})

    def stepped(self, report: StepReport) -> None:
        self.ended_by.append(len(self.kept))


@pytest.fixture
def legs() -> LegBook:
    book = LegBook()
    for router, leg in ((A, FIRST), (A, SECOND), (B, OTHERS)):
        book.enter(router, AddLeg(leg, Epoch(1), LegKind.PREFILL, 40))
    return book


@pytest.fixture
def handler() -> Keeps:
    return Keeps()


@pytest.fixture
def deliveries(legs: LegBook, handler: Keeps) -> Deliveries:
    return Deliveries(legs, {LegKind.PREFILL: handler}, LegSpans(WorkerId("w")))


def step(*outputs: EngineCoreOutput) -> EngineCoreOutputs:
    return EngineCoreOutputs(outputs=list(outputs))


def test_every_router_gets_what_is_of_its_legs(deliveries: Deliveries, legs: LegBook) -> None:
    """In the engine's order; a leg that was aborted while the step ran is nobody's."""
    legs.end(SECOND)
    told = deliveries.of_step(
        step(EngineCoreOutput(OTHERS, [1]), EngineCoreOutput(SECOND, [2]), EngineCoreOutput(FIRST, [3])), StepReport(STATS)
    )
    assert {router: [output.request_id for output in parts.outputs] for router, parts in told.items()} == {B: [OTHERS], A: [FIRST]}


def test_an_end_is_told_with_what_is_kept(deliveries: Deliveries, legs: LegBook, handler: Keeps) -> None:
    """The leg is off the book, and its engine's own parameters do not leave the worker. Handlers hear of the step behind that: a lease may
    end in the step it began in."""
    end = EngineCoreOutput(FIRST, [1], finish_reason=FinishReason.LENGTH, kv_transfer_params={"host": "10.0.0.1"})
    told = deliveries.of_step(step(end, EngineCoreOutput(SECOND, [1])), StepReport(STATS))
    assert list(told[A].handles) == [FIRST]
    assert end.kv_transfer_params is None
    assert (legs.get(FIRST), legs.get(SECOND) is None) == (None, False)
    assert handler.ended_by == [1]


def test_a_transfer_waits_for_its_router_s_next_output(deliveries: Deliveries) -> None:
    """It is told once; of a router that is gone, nothing is kept."""
    pulls = StepReport(STATS, [Transfer(FIRST, 4096, 0.1), Transfer(OTHERS, 8192, 0.2)])
    assert not deliveries.of_step(step(), pulls)
    deliveries.router_gone(B)
    outputs = [EngineCoreOutput(FIRST, [1]), EngineCoreOutput(OTHERS, [1])]
    told = [deliveries.of_step(step(*outputs), StepReport(STATS)) for _ in range(2)]
    assert [[one[router].transfers for router in (A, B)] for one in told] == [[[Transfer(FIRST, 4096, 0.1)], []], [[], []]]


def test_how_long_the_engine_let_a_leg_wait(deliveries: Deliveries) -> None:
    """As a difference: the engine's clock means nothing to a router."""
    times = [EngineCoreEvent(EngineCoreEventType.QUEUED, 5.0), EngineCoreEvent(EngineCoreEventType.SCHEDULED, 5.5)]
    output = EngineCoreOutput(FIRST, [1], events=times)
    assert deliveries.of_step(step(output), StepReport(STATS))[A].queue_s == {FIRST: 0.5}
    assert output.events is None
