"""Histograms that point to traces: the newest of each bucket, in the one of Prometheus' formats that has a place for it."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

from core.ids import RequestId, WorkerId
from core.metrics.entry import histogram
from core.metrics.exposition import LabelledCollector, ReadingCollector, family_of
from core.metrics.tally import Reading, Spreads
from router.service import ORDINARY
from router.tally import RouterTally
from router.timeline import Timeline

TIME = histogram("baton_thing_seconds", ("phase",), (0.1, 1.0), "Things", "look")
TRACE = "0af7651916cd43dd8448eb211c80319c"


def exemplars(*readings: Reading) -> dict[tuple[str, str], Any]:
    """By name and upper bound."""
    registry = CollectorRegistry()
    registry.register(ReadingCollector(lambda: readings))
    found = {}
    for family in read_openmetrics(generate_openmetrics(registry).decode()):
        for sample in family.samples:
            if sample.exemplar is not None:
                found[sample.name.removesuffix("_bucket"), sample.labels["le"]] = sample.exemplar
    return found


def test_the_newest_of_each_bucket() -> None:
    """With value and time; buckets without one have none."""
    times = Spreads(TIME)
    for value, trace, at_s in ((0.05, "a" * 32, 1.0), (0.06, TRACE, 2.5), (7.0, "b" * 32, 3.0)):
        times.observe(value, "decode")
        times.exemplify(value, trace, at_s, "decode")
    times.observe(0.5, "decode")
    told = exemplars(times)
    assert {place: (it.labels, it.value, float(it.timestamp)) for place, it in told.items()} == {
        ("baton_thing_seconds", "0.1"): ({"trace_id": TRACE}, 0.06, 2.5),
        ("baton_thing_seconds", "+Inf"): ({"trace_id": "b" * 32}, 7.0, 3.0),
    }


def test_the_older_format_has_none() -> None:
    """It is as it was, and can be read."""
    times = Spreads(TIME)
    times.observe(0.05, "decode")
    before = generate_latest(_registry(times))
    times.exemplify(0.05, TRACE, 1.0, "decode")
    assert generate_latest(_registry(times)) == before


def _registry(reading: Reading) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(ReadingCollector(lambda: [reading]))
    return registry


def test_they_outlive_further_labels() -> None:
    """Those that a worker's metrics are given on their way out."""
    times = Spreads(TIME)
    times.observe(0.05, "decode")
    times.exemplify(0.05, TRACE, 1.0, "decode")
    [family] = LabelledCollector(lambda: [family_of(times)], lambda: {"worker": "w"}).collect()
    assert [sample.exemplar.labels for sample in family.samples if sample.exemplar] == [{"trace_id": TRACE}]


def test_only_of_requests_that_have_a_trace() -> None:
    """Their time, their time per token and their phases; of others nothing is kept."""
    tally = RouterTally()

    def ended(trace_id: str) -> None:
        timeline = Timeline(RequestId("r"), "c", 1000.0, 50.0, 20, 8, outcome="finished", trace_id=trace_id, output_tokens=5)
        timeline.attempts, timeline.prefill_worker, timeline.decode_worker = 1, WorkerId("w"), WorkerId("w")
        timeline.sent_s, timeline.first_token_s, timeline.decoding_s, timeline.finished_s = 0.1, 0.5, 0.5, 2.0
        tally.ended(timeline, ORDINARY, None)

    ended("")
    assert exemplars(*tally.readings()) == {}
    ended(TRACE)
    told = exemplars(*tally.readings())
    assert {name for name, _ in told} == {"baton_request_seconds", "baton_tpot_seconds", "baton_phase_seconds"}
    assert {(it.labels["trace_id"], float(it.timestamp)) for it in told.values()} == {(TRACE, 1002.0)}
