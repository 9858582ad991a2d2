"""What a worker tells of its traced legs, and on whose clock."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cluster.clock_gap import ClockGap
from cluster.leg_spans import LegSpans
from cluster.messages import AddLeg, LegKind, LegTrace
from cluster.span_export import SpanExport
from core.ids import Epoch, LegId, RouterId, WorkerId
from core.metrics.of_workers import TRACE_SPANS
from core.trace import Span, TraceContext
from engine.base import Transfer

LEG, ROUTER = LegId("r:0"), RouterId("router-0")
ABOVE = TraceContext("a" * 32, "b" * 16, True, "vendor=1")
SENT_NS = 10**18
MS = 10**6


class Stage:
    """A worker whose clock is an hour fast, and which hears of a leg ``late_ms`` after it was sent."""

    def __init__(self, late_ms: float = 2.0) -> None:
        self.now_s = 100.0
        self.late_ms = late_ms
        self.told: list[Span] = []
        self.export = SpanExport(self._take)
        self.spans = LegSpans(WorkerId("w"), self.export, 10.0, unix_ns=self.unix_ns, clock=lambda: self.now_s)

    def _take(self, spans: Sequence[Span]) -> bool:
        self.told += spans
        return True

    def unix_ns(self) -> int:
        return SENT_NS + 3600 * 1000 * MS + round(((self.now_s - 100.0) * 1000 + self.late_ms) * MS)

    def add(self, leg: LegId = LEG, sent_ns: int = SENT_NS) -> AddLeg:
        return AddLeg(leg, Epoch(1), LegKind.DECODE, 40, trace=LegTrace(ABOVE, sent_ns))

    def after(self, seconds: float) -> None:
        self.now_s += seconds

    def by_name(self) -> dict[str, Span]:
        self.spans.close()
        assert {span.context.trace_id for span in self.told} <= {ABOVE.trace_id}
        return {span.name: span for span in self.told}


def test_a_leg_from_its_coming_to_its_end() -> None:
    """Admission, the engine, and in it the pull: as children, with what is known of each, on the router's clock."""
    stage = Stage()
    stage.spans.came(ROUTER, stage.add())
    stage.after(0.001)
    headers = stage.spans.admitted(LEG)
    stage.after(0.5)
    stage.spans.pulled(Transfer(LEG, 4096, 0.2))
    stage.after(0.1)
    stage.spans.told(LEG, 1, 16)
    stage.spans.scheduled(LEG, 0.05)
    stage.after(0.3)
    stage.spans.told(LEG, 4, None)
    stage.spans.ended(LEG, "finished")
    told = stage.by_name()
    worker, engine, pull = told["worker"], told["engine"], told["kv_pull"]
    assert (worker.parent_id, told["admission"].parent_id, engine.parent_id) == (ABOVE.span_id, *[worker.context.span_id] * 2)
    assert pull.parent_id == engine.context.span_id
    assert headers == engine.context.headers  # what the engine makes of it is below its span
    assert headers["tracestate"] == "vendor=1"
    times = {name: ((span.begin_ns - SENT_NS) / MS, (span.end_ns - SENT_NS) / MS) for name, span in told.items()}
    expected: dict[str, object] = {
        "worker": (0.0, pytest.approx(901.0)),
        "admission": (0.0, pytest.approx(1.0)),
        "engine": (pytest.approx(1.0), pytest.approx(901.0)),
        "kv_pull": (pytest.approx(301.0), pytest.approx(501.0)),
    }
    assert expected == times
    assert worker.attributes["baton.leg.ended"] == "finished"
    assert engine.attributes["gen_ai.usage.output_tokens"] == 5
    assert (engine.attributes["baton.cached_tokens"], engine.attributes["baton.queue_s"]) == (16, 0.05)
    assert not stage.spans.legs


def test_a_refused_leg_says_why() -> None:
    """The engine never had it."""
    stage = Stage()
    stage.spans.came(ROUTER, stage.add())
    stage.spans.ended(LEG, "refused", "it is full")
    told = stage.by_name()
    assert set(told) == {"worker", "admission"}
    assert told["admission"].error == told["worker"].error == "it is full"


def test_what_is_not_traced_costs_nothing() -> None:
    """No leg is kept, no span is made: where the router says nothing, and where this worker has nobody to tell."""
    stage = Stage()
    stage.spans.came(ROUTER, AddLeg(LEG, Epoch(1), LegKind.WHOLE))
    nobody = LegSpans(WorkerId("w"))
    nobody.came(ROUTER, stage.add())
    for spans in (stage.spans, nobody):
        assert not spans.legs
        assert spans.admitted(LEG) is None
        spans.pulled(Transfer(LEG, 1, 1.0))
        spans.told(LEG, 1, None)
        spans.scheduled(LEG, 1.0)
        spans.ended(LEG, "finished")
        assert not any(cell.value for cell in spans.counts().cells.values())
    nobody.close()
    assert stage.by_name() == {}


def test_a_pull_does_not_begin_before_its_engine_had_it() -> None:
    """Its length is measured elsewhere than its end."""
    stage = Stage()
    stage.spans.came(ROUTER, stage.add())
    stage.spans.admitted(LEG)
    stage.after(0.1)
    stage.spans.pulled(Transfer(LEG, 1, 9.0))
    stage.spans.ended(LEG, "aborted")
    assert stage.by_name()["kv_pull"].begin_ns == SENT_NS


def test_spans_are_counted() -> None:
    """By what became of them."""
    stage = Stage()
    stage.spans.came(ROUTER, stage.add())
    stage.spans.ended(LEG, "refused", "full")
    stage.spans.close()
    assert {labels[0]: cell.value for labels, cell in stage.spans.counts().cells.items()} == {"exported": 2, "dropped": 0, "failed": 0}
    assert stage.spans.counts().entry is TRACE_SPANS


HOUR = 3600 * 10**9
GAPS: dict[str, list[tuple[int, int, int]]] = {
    # (sent, came, gap that is known then); all in nanoseconds
    "the first one": [(0, HOUR, HOUR)],
    "a clock that is slow": [(HOUR, 0, -HOUR)],
    "a slower message changes nothing": [(0, HOUR, HOUR), (100, HOUR + 300, HOUR)],
    "a faster one does": [(0, HOUR + 500, HOUR + 500), (1000, HOUR + 1200, HOUR + 200)],
    "after a minute the last minute still counts": [(0, 100, 100), (60 * 10**9, 60 * 10**9 + 900, 100)],
    "after two it does not": [(0, 100, 100), (60 * 10**9, 60 * 10**9 + 900, 100), (121 * 10**9, 121 * 10**9 + 800, 800)],
    "nor after a long silence": [(0, 100, 100), (HOUR, HOUR + 900, 900)],
}


@pytest.mark.parametrize("case", GAPS)
def test_the_gap_between_two_clocks(case: str) -> None:
    """The fastest message of the last minute or two tells."""
    gap = ClockGap()
    for sent_ns, came_ns, known_ns in GAPS[case]:
        assert gap.saw(sent_ns, came_ns) == known_ns


def test_later_legs_show_how_late_they_came() -> None:
    """By how much longer they took than the fastest; a router that is gone is forgotten."""
    stage = Stage(late_ms=1.0)
    stage.spans.came(ROUTER, stage.add())
    stage.spans.ended(LEG, "refused", "full")
    stage.late_ms = 5.0
    other = LegId("r:1")
    stage.spans.came(ROUTER, stage.add(other))
    stage.spans.ended(other, "refused", "full")
    stage.spans.router_gone(ROUTER)
    stage.spans.came(ROUTER, stage.add())
    stage.spans.ended(LEG, "refused", "full")
    stage.spans.close()
    assert [(span.begin_ns - SENT_NS) / MS for span in stage.told if span.name == "worker"] == [0.0, 4.0, 0.0]
