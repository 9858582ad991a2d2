"""Legs with a LoRA adapter: each goes into the engine when that has its adapter, and is refused where it cannot have it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from cluster.adapters import Adapters
from cluster.channel import gather_quietly
from cluster.leg_book import LegBook
from cluster.messages import AddLeg, Refused
from core.errors import AdapterError, EngineFailedError
from core.ids import RouterId
from core.metrics.words import LegRefusal
from core.worker import AdapterLoad
from engine.base import Engine
from engine.vllm_lora import engine_lora

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest

log = logging.getLogger(__name__)

Refuse = Callable[[RouterId, Refused, LegRefusal], Awaitable[None]]
"""Tells a router, and counts why."""


class AdapterLegs:
    """Without ``adapters``, the worker was started without ``lora`` and refuses them all. On the worker's loop only."""

    def __init__(self, adapters: Adapters | None, legs: LegBook, engine: Engine, refuse: Refuse) -> None:
        self._adapters = adapters
        self._legs = legs
        self._engine = engine
        self._refuse = refuse
        self._waiting: set[asyncio.Task[None]] = set()
        """For adapters that are being loaded."""

    @property
    def load(self) -> AdapterLoad | None:
        """What routers are told of the worker's adapters; None: it can have none."""
        return None if self._adapters is None else self._adapters.load(self._legs.adapters_in_use)

    async def add(self, router: RouterId, add: AddLeg, request: EngineCoreRequest) -> None:
        """A leg that there is room for. The adapter is found and loaded by its name: of what else the router says of it, nothing counts."""
        assert request.lora_request is not None
        name = request.lora_request.lora_name
        try:
            if self._adapters is None:
                raise AdapterError(name, "this worker has been started without `lora`")
            adapter = self._adapters.find(name)
        except AdapterError as error:
            await self._end(router, add, str(error))
            return
        if not self._adapters.place(adapter, self._legs.uses):
            await self._put_off(router, add, f"requests with other adapters have all slots; `{name}` needs one")
            return
        request = msgspec.structs.replace(request, lora_request=engine_lora(adapter))
        self._legs.enter(router, add, name)
        load = self._adapters.under_way(adapter)
        if load is None:
            await self._engine.add(request)
            return
        task = asyncio.create_task(self._add_when_loaded(router, add, request, load))  # others must be heard meanwhile
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def close(self) -> None:
        """Ends the loads, and what waits for them."""
        await gather_quietly(*self._waiting)
        if self._adapters is not None:
            await self._adapters.close()

    async def _add_when_loaded(self, router: RouterId, add: AddLeg, request: EngineCoreRequest, load: asyncio.Task[None]) -> None:
        try:
            await asyncio.shield(load)
            if self._legs.get(add.leg) is not None:  # else it was aborted meanwhile
                await self._engine.add(request)
        except AdapterError as error:
            if self._legs.get(add.leg) is not None:
                self._legs.end(add.leg)
                await self._end(router, add, str(error))
        except EngineFailedError as error:
            log.error("the engine failed while leg %s waited for its adapter: %s", add.leg, error.reason)  # the runtime ends the worker

    async def _end(self, router: RouterId, add: AddLeg, reason: str) -> None:
        """The request ends with the reason."""
        await self._refuse(router, Refused(add.leg, add.epoch, reason, final=True), LegRefusal.ADAPTER)

    async def _put_off(self, router: RouterId, add: AddLeg, reason: str) -> None:
        """It can be offered again later."""
        await self._refuse(router, Refused(add.leg, add.epoch, reason, busy=True), LegRefusal.ADAPTER)
