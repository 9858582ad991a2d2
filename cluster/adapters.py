"""A worker's LoRA adapters: has the engine load what a leg needs and it lacks, and unload what nobody needs to make room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cluster.adapter_slots import AdapterSlots, Placed
from core.adapter import Adapter
from core.errors import AdapterError
from core.metrics.words import AdapterFate
from core.worker import AdapterLoad
from engine.adapters import AdapterCatalogue
from engine.base import Engine

log = logging.getLogger(__name__)


class Adapters:
    """``told`` is called with what became of each load; ``clock`` is monotonic seconds. On the worker's loop only."""

    def __init__(
        self,
        engine: Engine,
        catalogue: AdapterCatalogue,
        slots: AdapterSlots,
        clock: Callable[[], float],
        told: Callable[[AdapterFate], None] = lambda fate: None,
    ) -> None:
        self.told = told
        self._engine = engine
        self._catalogue = catalogue
        self._slots = slots
        self._clock = clock
        self._loads: dict[str, asyncio.Task[None]] = {}
        """Those under way."""

    def find(self, name: str) -> Adapter:
        """The adapter as this node has it: a router says no more than its name. Raises AdapterError."""
        adapter = self._catalogue.find(name)
        if adapter is None:
            raise AdapterError(name, "this worker's node does not have it; `lora.directory` has to be the same folder on every node")
        return adapter

    def place(self, adapter: Adapter, in_use: Callable[[str], bool]) -> bool:
        """Whether there is a slot for it; then it is loaded, or its load has begun."""
        placed = self._slots.place(adapter.name, lambda name: name in self._loads or in_use(name))
        if placed is None:
            return False
        if placed.is_new:
            load = self._loads[adapter.name] = asyncio.create_task(self._load(adapter, placed))
            load.add_done_callback(lambda done: done.cancelled() or done.exception())  # all who waited may be gone by then
        return True

    def under_way(self, adapter: Adapter) -> asyncio.Task[None] | None:
        """The load of one that has a slot, to be waited for under ``asyncio.shield``; None: it can be used at once. Ask before anything
        is waited for: a load that has failed by then is under way no more. Raises AdapterError, EngineFailedError when awaited."""
        return self._loads.get(adapter.name)

    def load(self, in_use: int) -> AdapterLoad:
        """What routers are told, of whose adapters so many are with legs."""
        return AdapterLoad(tuple(self._slots.names), in_use, self._slots.slots, self._slots.load_s)

    async def close(self) -> None:
        """Ends the loads under way."""
        loads = list(self._loads.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    async def _load(self, adapter: Adapter, placed: Placed) -> None:
        began_s, leaving = self._clock(), placed.evicted
        try:
            if leaving is not None:
                await self._engine.unload_adapter(leaving)
                leaving = None
            await self._engine.load_adapter(adapter)
        except AdapterError as error:
            self._slots.failed(adapter.name, stays=leaving)
            self.told(AdapterFate.FAILED)
            if leaving is not None:
                raise AdapterError(adapter.name, f"`{leaving}` should have made room for it: {error.reason}") from error
            raise
        else:
            self._slots.loaded(self._clock() - began_s)
            self.told(AdapterFate.LOADED)
            log.info("loaded the adapter %s in %.3f s", adapter.name, self._clock() - began_s)
        finally:
            del self._loads[adapter.name]
