"""The dashboards: what is in the repository is what the code makes, and asks for nothing that nobody tells."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from core.metrics import of_requests as r
from core.metrics.catalogue import CATALOGUE
from deploy.dashboards.every import FOLDER, files
from deploy.dashboards.queries import level, mean, quantile, rate, series
from tests.support.promql import metrics, selectors
from tests.support.watching import BATONS, DASHBOARDS, PANELS, TARGETS, stored

ROOT = Path(__file__).parents[2]
UNITS = {"reqps", "short", "s", "percentunit", "bytes", "Bps"}

NOT_SHOWN = {
    "baton_worker_running_requests": "vLLM's own is shown, which simulated engines tell, too",
    "baton_worker_waiting_requests": "likewise",
}
"""Metrics of the catalogue that are on no dashboard, and why."""


def test_what_is_there_is_what_the_code_makes() -> None:
    """`make dashboards` writes the files anew."""
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == files()


def test_dashboards_can_be_told_apart_and_linked() -> None:
    """Each has a name in its address, a title and a word about itself; every panel has a number, which links to it use."""
    for name, made in DASHBOARDS.items():
        assert made["uid"] == name
        assert made["title"].startswith("Baton / ")
        assert made["description"]
        assert [panel["id"] for panel in made["panels"]] == list(range(1, len(made["panels"]) + 1))
        assert made["links"][0]["tags"] == made["tags"] == ["baton"]


def test_panels_lie_beside_each_other() -> None:
    """Rows of panels are as wide as the page, and nothing covers anything."""
    for made in DASHBOARDS.values():
        places = [panel["gridPos"] for panel in made["panels"]]
        cells = Counter((x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"]))
        assert set(cells.values()) == {1}, made["title"]
        assert max(x for x, _ in cells) == 23, made["title"]
        for before, after in pairwise(places):
            assert after["y"] == before["y"] or before["x"] + before["w"] == 24, made["title"]


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS.keys())
def test_panels_say_what_they_mean(panel: dict[str, Any]) -> None:
    """Title, description in words, a unit that Grafana knows, a query at least, and the data source that is chosen above."""
    assert len(panel["description"].split()) >= 8
    assert panel["description"].endswith(".")
    unit = panel["options"].get("yAxis", {}).get("unit") or panel["fieldConfig"]["defaults"]["unit"]
    assert unit in UNITS
    assert panel["targets"]
    assert [target["datasource"]["uid"] for target in panel["targets"]] == ["${datasource}"] * len(panel["targets"])


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS.keys())
def test_panels_ask_for_what_is_told(panel: dict[str, Any]) -> None:
    """Metrics of the catalogue, by the names under which they are stored, and vLLM's; those of the chosen application only."""
    for target in panel["targets"]:
        asked = metrics(target["expr"])
        assert asked
        assert {name for name in asked if not name.startswith("vllm:")} <= BATONS
        assert not [selector for selector in selectors(target["expr"]) if 'app=~"$app"' not in selector]


def test_the_whole_catalogue_is_shown() -> None:
    """What is worth measuring is worth a panel; exceptions say why not."""
    asked = set().union(*(metrics(target["expr"]) for target in TARGETS.values()))
    assert {name for name in CATALOGUE if not stored(name) & asked} == set(NOT_SHOWN)


def test_legends_name_labels_that_are_there() -> None:
    """A legend of a label that the query has added up would be empty."""
    for name, target in TARGETS.items():
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        kept = {label.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(",")}
        assert named <= kept, name


def test_titles_are_there_once_per_dashboard() -> None:
    """Alone they say which panel is meant."""
    assert len(PANELS) == sum(panel["type"] != "row" for made in DASHBOARDS.values() for panel in made["panels"])


def test_nothing_that_serves_needs_them() -> None:
    """Grafana's SDK is a developer's tool: nothing but the generator imports it, and nothing imports the generator."""
    folders = [package.parent for package in ROOT.glob("*/__init__.py")]
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        if path.parent != ROOT / "deploy" / "dashboards":
            assert not re.search(r"^\s*(from|import) (grafana_foundation_sdk|deploy\.dashboards)", path.read_text(), re.MULTILINE), path


# -- how queries are put together --------------------------------------------------------------------------------------------


def test_queries_add_up_over_processes() -> None:
    """A router's counts are a part; quantiles are of the sum of all buckets, not of quantiles."""
    assert rate(r.ARRIVALS, by="class") == 'sum by (class) (rate(baton_arrivals_total{app=~"$app"}[$__rate_interval]))'
    assert level(r.WAITING_REQUESTS, by="instance", how="max") == 'max by (instance) (baton_router_waiting_requests{app=~"$app"})'
    buckets = 'sum by (class, le) (rate(baton_ttft_seconds_bucket{app=~"$app"}[$__rate_interval]))'
    assert quantile(0.9, r.TTFT, by="class") == f"histogram_quantile(0.9, {buckets})"
    assert metrics(mean(r.TTFT)) == {"baton_ttft_seconds_sum", "baton_ttft_seconds_count"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rate(r.ARRIVALS, by="tenant"), "no label tenant"),
        (lambda: series(r.ARRIVALS, 'reason!~"x"'), "no label reason"),
        (lambda: level(r.WAITING_REQUESTS, by="worker"), "no label worker"),
        (lambda: rate(r.TTFT), "is a histogram"),
        (lambda: rate(r.ARRIVALS, part="sum"), "is a counter"),
    ],
)
def test_queries_that_would_be_empty_cannot_be_made(make: Any, said: str) -> None:
    """A label or a part that the metric does not have."""
    with pytest.raises(ValueError, match=said):
        make()


def test_expressions_are_read() -> None:
    """What the tests above take apart."""
    expression = 'histogram_quantile(0.9, sum by (le, class) (rate(a_bucket{x="by (b)"}[5m]))) / ignoring(le) group_left c{d="e"} > bool 1'
    assert metrics(expression) == {"a_bucket", "c"}
    assert selectors(expression) == ['a_bucket{x="by (b)"}', 'c{d="e"}']
    assert selectors("vllm:a and ab offset 5m unless a") == ["vllm:a", "ab", "a"]
