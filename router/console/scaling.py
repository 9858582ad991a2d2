"""What the console shows of the autoscaler: its newest plan, how demand, forecast and capacity came to that, and what was done. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

MOST_PLANS = 90


class Point(msgspec.Struct, frozen=True):
    """One pool when one plan was made. Tokens per second; None: not known then."""

    at: float
    """Unix time."""
    role: str
    demand: float | None
    forecast: float | None
    forecast_at: float
    """Unix time for which that was expected."""
    capacity: float | None
    """What its ready workers do at most within the objective."""


class ScalingRow(msgspec.Struct, frozen=True):
    """``GET /v1/baton/scaling`` in short."""

    enabled: bool
    plan: dict[str, Any] | None = None
    """The newest. None: none was made yet."""
    history: list[Point] = []
    """The oldest first."""
    actions: list[dict[str, Any]] = []
    """The last that plans have asked for, the newest first: ``at_s``, ``text``, ``dry_run``."""


def scaling_row(told: Mapping[str, Any]) -> ScalingRow:
    """``told`` is what that route answers, the newest plan first; empty where nobody has answered."""
    plans = told.get("plans", [])
    plan = {name: plans[0].get(name) for name in ("at_s", "scaler", "pools", "held", "warnings", "dry_run")} if plans else None
    history = [_point(past["at_s"], pool) for past in reversed(plans[:MOST_PLANS]) for pool in past["pools"]]
    return ScalingRow(told.get("enabled", False), plan, history, told.get("actions", []))


def _point(at: float, pool: Mapping[str, Any]) -> Point:
    does = pool["worker_tokens_per_s"]
    capacity = None if does is None else pool["ready"] * does
    then = at + (pool["horizon_s"] or 0.0)
    return Point(at, pool["role"], pool["demand_tokens_per_s"], pool["forecast_tokens_per_s"], then, capacity)
