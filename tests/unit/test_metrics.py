"""The catalogue, what is counted by it, and what Prometheus is given: three views that must not differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from core.metrics.catalogue import CATALOGUE, CHAPTERS, filled, table
from core.metrics.entry import LABELS, Entry, Kind, counter, gauge, histogram
from core.metrics.exposition import LabelledCollector, ReadingCollector, family_of
from core.metrics.predictions import ERROR_BUCKETS, PredictionNumbers, prediction_readings
from core.metrics.tally import OTHER, Counts, Levels, Reading, Spreads

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
SUM = counter("baton_things_total", ("worker",), "Things", "look")
LEVEL = gauge("baton_things", (), "Things", "look")
TIME = histogram("baton_thing_seconds", ("phase",), (0.1, 1.0), "Things", "look")
TTFT = PredictionNumbers("ttft", "prefill", [3, 2, 0, 0, 0, 0, 0, 0, 0, 1], 7.5, -0.25, 0.07)


def read(*readings: Reading) -> dict[tuple[str, str], float]:
    """Value by name and by the values of labels, in the alphabetical order of these, as Prometheus' own format has it."""
    registry = CollectorRegistry()
    registry.register(ReadingCollector(lambda: readings))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(sample.name, ",".join(sample.labels.values())): sample.value for family in families for sample in family.samples}


# -- the catalogue -----------------------------------------------------------------------------------------------------------


def test_the_page_is_the_catalogue() -> None:
    """Every metric is in docs/metrics.md as the catalogue has it, and no other: `python -m deploy.metrics_page` writes it anew."""
    assert filled(PAGE.read_text()) == PAGE.read_text()


def test_names_are_there_once() -> None:
    """Also across those who tell them: a name means one thing."""
    entries = [entry for chapter in CHAPTERS.values() for entry in chapter]
    assert len(CATALOGUE) == len(entries) > 40
    assert not [entry.name for entry in entries if "|" in entry.meaning + entry.when_it_moves]  # the table's own


def test_labels_are_bounded() -> None:
    """Nothing that clients choose freely, or that there is one of per request, is a label of anything."""
    assert {label for entry in CATALOGUE.values() for label in entry.labels} <= LABELS
    assert LABELS.isdisjoint({"request", "request_id", "leg", "prompt", "model", "path", "user", "key", "address", "router"})


BROKEN: dict[str, dict[str, Any]] = {
    "names begin with baton_": {"name": "things_total"},
    "counters, and nothing else, end in _total": {"name": "baton_things"},
    "is no label": {"labels": ("request_id",)},
    "have bounds, in order": {"bounds": (1.0,)},
    "say what it means": {"when_it_moves": ""},
}


@pytest.mark.parametrize("rule", BROKEN)
def test_entries_obey_the_rules(rule: str) -> None:
    """Whoever adds one that does not is told which rule it breaks."""
    sound: dict[str, Any] = {"name": "baton_things_total", "kind": Kind.COUNTER, "labels": (), "meaning": "x", "when_it_moves": "y"}
    Entry(**sound)
    with pytest.raises(ValueError, match=rule):
        Entry(**(sound | BROKEN[rule]))
    with pytest.raises(ValueError, match="have bounds, in order"):
        histogram("baton_x_seconds", (), (2.0, 1.0), "x", "y")


def test_a_page_without_a_place_for_a_table() -> None:
    """Says which."""
    with pytest.raises(ValueError, match="metrics of requests"):
        filled("nothing")
    assert table([SUM]).splitlines()[-1] == "| `baton_things_total{worker}` | counter | Things | look |"


# -- counting ----------------------------------------------------------------------------------------------------------------


def test_each_kind_in_prometheus_words() -> None:
    """Counters by their labels, gauges as they are, histograms cumulative; in both of its formats."""
    things, level, times = Counts(SUM), Levels(LEVEL), Spreads(TIME)
    things.add("a")
    things.add("a", by=2)
    things.add("b")
    level.set(5).set(4)
    for seconds in (0.1, 0.5, 7.0):
        times.observe(seconds, "prefill")
    assert read(things, level, times) == {
        ("baton_things_total", "a"): 3,
        ("baton_things_total", "b"): 1,
        ("baton_things", ""): 4,
        ("baton_thing_seconds_bucket", "0.1,prefill"): 1,
        ("baton_thing_seconds_bucket", "1,prefill"): 2,
        ("baton_thing_seconds_bucket", "+Inf,prefill"): 3,
        ("baton_thing_seconds_count", "prefill"): 3,
        ("baton_thing_seconds_sum", "prefill"): 7.6,
    }
    registry = CollectorRegistry()
    registry.register(ReadingCollector(lambda: [things, level, times]))
    assert generate_openmetrics(registry).decode().endswith("# EOF\n")


def test_what_has_no_labels_is_there_from_the_beginning() -> None:
    """And what is known to come: the rate of a counter needs the zero before the first."""
    assert read(Counts(counter("baton_x_total", (), "x", "y"))) == {("baton_x_total", ""): 0}
    assert read(Counts(SUM, [("a",)])) == {("baton_things_total", "a"): 0}
    assert ("baton_thing_seconds_count", "decode") in read(Spreads(TIME, [("decode",)]))


def test_sets_of_labels_are_bounded() -> None:
    """Whatever is fed: those beyond the bound are counted together, under one name, and nothing is lost."""
    things = Counts(SUM, most=3)
    for number in range(100):
        things.add(f"worker-{number}")
    assert set(things.cells) == {("worker-0",), ("worker-1",), ("worker-2",), (OTHER,)}
    assert sum(cell.value for cell in things.cells.values()) == 100


def test_what_is_gone_is_forgotten() -> None:
    """A worker that left takes its labels with it, and makes room for others."""
    things = Counts(SUM, most=1)
    things.add("a")
    things.forget("worker", "a")
    things.add("b")
    assert set(things.cells) == {("b",)}


def test_labels_are_those_of_the_catalogue() -> None:
    """One more or less is a mistake, and said at once."""
    with pytest.raises(ValueError, match="has the labels"):
        Counts(SUM).add()


def test_numbers_are_those_of_the_moment() -> None:
    """Each scrape asks anew."""
    now = [Levels(LEVEL).set(9), Levels(LEVEL).set(0)]
    registry = CollectorRegistry()
    registry.register(ReadingCollector(lambda: [now.pop(0)]))
    assert b"baton_things 9.0" in generate_latest(registry)
    assert b"baton_things 0.0" in generate_latest(registry)


def test_whose_it_is_is_added() -> None:
    """To every sample, those of histograms included, beside the labels it has."""
    times = Spreads(TIME)
    times.observe(0.5, "decode")
    collector = LabelledCollector(lambda: [family_of(times)], lambda: {"worker": "w", "role": "decode"})
    [family] = collector.collect()
    assert all({"phase", "worker", "role"} <= sample.labels.keys() for sample in family.samples)
    assert generate_latest(collector).count(b'role="decode"') == len(TIME.bounds) + 3


def test_errors_of_predictions() -> None:
    """A histogram of their sizes, and two medians."""
    values = {
        name.removeprefix("baton_prediction_"): value
        for (name, labels), value in read(*prediction_readings([TTFT])).items()
        if "," in labels
    }
    buckets = [value for (name, _), value in read(*prediction_readings([TTFT])).items() if name.endswith("_bucket")]
    assert (buckets[0], buckets[1], buckets[-2], buckets[-1], len(buckets)) == (3, 5, 5, 6, len(ERROR_BUCKETS) + 1)
    del values["error_ratio_bucket"]
    assert values == {"error_ratio_count": 6, "error_ratio_sum": 7.5, "bias_ratio": -0.25, "median_error_ratio": 0.07}
