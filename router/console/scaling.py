"""What the console shows of the autoscaler: its newest plan, how demand, forecast and capacity came to that, and what was done. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class ScalingRow(msgspec.Struct, frozen=True):
    """``GET /v1/baton/scaling`` in short."""

    enabled: bool
    plan: dict[str, Any] | None = None
    """The newest. None: none was made yet."""
    history: list[dict[str, Any]] = []
    """``cluster.scaling_course.Point``, the oldest first."""
    actions: list[dict[str, Any]] = []
    """The last that plans have asked for, the newest first: ``at_s``, ``text``, ``dry_run``."""


def scaling_row(told: Mapping[str, Any]) -> ScalingRow:
    """``told`` is what that route answers, the newest plan first; empty where nobody has answered."""
    plans = told.get("plans", [])
    plan = {name: plans[0].get(name) for name in ("at_s", "scaler", "pools", "held", "warnings", "dry_run")} if plans else None
    return ScalingRow(told.get("enabled", False), plan, told.get("course", []), told.get("actions", []))
