"""All dashboards, and the files they are written to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.dashboards import autoscaler, balancer, engines, overview, phases, pools

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"


def dashboards() -> Mapping[str, Dashboard]:
    """By the names of their files."""
    made = (overview.dashboard(), phases.dashboard(), pools.dashboard(), balancer.dashboard(), autoscaler.dashboard(), engines.dashboard())
    return {f"{dashboard.uid}.json": dashboard for dashboard in made}


def files() -> Mapping[str, str]:
    """Their text, the same every time."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return {name: encoder.encode(dashboard) + "\n" for name, dashboard in dashboards().items()}
