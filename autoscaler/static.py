"""No scaling: so many workers, for ever. What a cluster without an autoscaler does."""

from __future__ import annotations

import msgspec

from autoscaler.base import Scaler
from autoscaler.counts import reach
from autoscaler.plan import Plan
from autoscaler.signals import Signals
from core.worker import Role


class Nothing(msgspec.Struct, frozen=True):
    """A static pool remembers nothing."""


class StaticScaler(Scaler[Nothing]):
    """Replaces those that are lost."""

    name = "static"

    def __init__(self, prefill: int, decode: int) -> None:
        self._wanted = {Role.PREFILL: prefill, Role.DECODE: decode}

    def first(self) -> Nothing:
        return Nothing()

    def plan(self, signals: Signals, state: Nothing, now_s: float) -> tuple[Plan, Nothing]:
        return reach(self.name, signals, self._wanted, now_s), state
