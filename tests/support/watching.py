"""What is shipped to watch Baton with, as tests look at it: panels, queries and alert rules, and the metrics they may ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from core.metrics.catalogue import CATALOGUE
from core.metrics.entry import Kind
from deploy.dashboards.every import FOLDER

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES_FILE = PROMETHEUS / "alerts.yml"

DASHBOARDS: Mapping[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
PANELS: Mapping[str, dict[str, Any]] = {
    f"{name}: {panel['title']}": panel for name, dashboard in DASHBOARDS.items() for panel in dashboard["panels"] if panel["type"] != "row"
}
TARGETS: Mapping[str, dict[str, Any]] = {
    f"{name} {target['refId']}": target for name, panel in PANELS.items() for target in panel["targets"]
}
"""Queries, with what Grafana knows of them besides."""
RULES: Mapping[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]
}


def stored(name: str) -> set[str]:
    """The names under which Prometheus has a metric of the catalogue."""
    parts = ("_bucket", "_sum", "_count") if CATALOGUE[name].kind is Kind.HISTOGRAM else ("",)
    return {name + part for part in parts}


BATONS = frozenset[str]().union(*(stored(name) for name in CATALOGUE))
