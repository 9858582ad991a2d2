"""A simulated worker's LoRA adapters: production's slots, and loads that take their time and hold up the engine."""

from __future__ import annotations

from collections.abc import Callable

from cluster.adapter_slots import AdapterSlots
from core.worker import AdapterLoad
from engine.sim_virtual import VirtualEngine


class SimAdapters:
    """What ``cluster.adapters`` is to a real worker. No adapter is broken here."""

    def __init__(self, engine: VirtualEngine) -> None:
        self.loads = 0
        self._engine = engine
        self._load_s = engine.config.adapter_load_s
        self._slots = AdapterSlots(engine.config.adapter_slots, self._load_s)
        self._there_s: dict[str, float] = {}
        """When those under way, or loaded, were or will be there."""
        self._busy_until_s = 0.0

    def wait_s(self, name: str, in_use: Callable[[str], bool], now: float) -> float | None:
        """How long a request with this adapter waits until it is there; None: requests with others have all slots."""
        placed = self._slots.place(name, lambda other: self._there_s[other] > now or in_use(other))
        if placed is None:
            return None
        if placed.is_new:
            if placed.evicted is not None:
                del self._there_s[placed.evicted]
            self._busy_until_s = self._there_s[name] = max(now, self._busy_until_s) + self._load_s
            self._engine.held_up(self._load_s, now)
            self.loads += 1
        return max(0.0, self._there_s[name] - now)

    def load(self, in_use: int) -> AdapterLoad | None:
        """What routers are told, of whose adapters so many are with legs."""
        if not self._slots.slots:
            return None
        return AdapterLoad(tuple(self._slots.names), in_use, self._slots.slots, self._load_s)
