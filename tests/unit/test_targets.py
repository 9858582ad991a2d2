"""Whom Prometheus is told to scrape."""

from __future__ import annotations

import json

from cluster.targets import FORGOTTEN_S, RoutersHeard, scrape_targets
from core.ids import RouterId, WorkerId

A, B = RouterId("router-a"), RouterId("router-b")


def test_the_format_is_prometheus_own() -> None:
    """A JSON list of targets and labels, all strings; each process by itself, in an order that does not change by itself."""
    found = scrape_targets("chat", "h:1", {B: "h:3", A: "h:2"}, {WorkerId("prefill-1"): "[::1]:4"}, ["n2:9", "n1:9"])
    assert json.loads(json.dumps(found)) == found
    assert [group["targets"] for group in found] == [["h:1"], ["h:2"], ["h:3"], ["[::1]:4"], ["n1:9", "n2:9"]]
    assert [group["labels"].get("instance") for group in found] == ["controller", "router-a", "router-b", "prefill-1", None]
    assert found[3]["labels"] == {"job": "baton", "app": "chat", "component": "worker", "instance": "prefill-1"}
    assert found[4]["labels"] == {"job": "ray"}


def test_labels_of_targets_do_not_hide_those_of_metrics() -> None:
    """Where both have one, Prometheus renames the metric's: none of these is in the catalogue."""
    from core.metrics.entry import LABELS

    found = scrape_targets("chat", "h:1", {A: "h:2"}, {WorkerId("w"): "h:3"}, ["n:9"])
    assert {label for group in found for label in group["labels"]} & (LABELS - {"app"}) == set()


def test_nobody_there() -> None:
    """Before anything listens, and where Ray exports nothing: an empty list, which is valid."""
    assert scrape_targets("chat", "", {}, {}, []) == []


def test_routers_come_and_go() -> None:
    """One that asks is there at once; one that has stopped asking is forgotten, and comes back by asking, perhaps elsewhere."""
    routers = RoutersHeard()
    assert routers.present(0.0) == {}
    routers.heard(A, "h:2", 0.0)
    routers.heard(B, "h:3", 5.0)
    assert routers.present(FORGOTTEN_S) == {A: "h:2", B: "h:3"}
    assert routers.present(FORGOTTEN_S + 1) == {B: "h:3"}
    routers.heard(A, "h:7", 20.0)
    assert routers.present(20.0) == {A: "h:7"}
