"""One worker on a real socket, and bare routers of a test's own that ask it: each is a socket and what the test makes of its messages."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, TypeVar

import zmq.asyncio

from cluster.channel import ChannelKeys, RouterEnd
from cluster.messages import FromWorker, decode_from_worker
from core.ids import Epoch, RouterId
from core.pool_config import PoolConfig
from core.worker import Role
from engine.sim_config import SimulatedEngineConfig
from engine.sim_timing import ConstantTime
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import BEAT_S, LEASE_S, ROOMY, SILENCE_S, MiniWorker

EPOCH = Epoch(1)


class BareRouter(ABC):
    """Nothing but a router's end of one worker's socket."""

    def __init__(self, worker: MiniWorker, keys: ChannelKeys, name: str) -> None:
        self._context = zmq.asyncio.Context()
        self._end = RouterEnd(self._context, RouterId(name), worker.card.address, worker.card.public_key, keys, SILENCE_S)
        self._reading = asyncio.create_task(self._read())

    @abstractmethod
    def take(self, message: FromWorker, frames: Sequence[Any]) -> None:
        """The worker has said something; ``frames`` are what came behind the message."""

    async def _read(self) -> None:
        while True:
            frames = await self._end.receive()
            self.take(decode_from_worker(frames[0]), frames[1:])

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._end.close()
        self._context.destroy(0)


R = TypeVar("R", bound=BareRouter)


class Stage(Generic[R]):
    """Makes workers and routers of one kind, and closes them, the newest first; no task may be left then."""

    def __init__(self, make_router: Callable[[MiniWorker, ChannelKeys, str], R]) -> None:
        self.keys = ChannelKeys.make()
        self._make_router = make_router
        self._numbers = itertools.count()
        self._closing: list[MiniWorker | R] = []

    async def worker(self, pool: PoolConfig = ROOMY, silence_s: float = SILENCE_S, pulse_s: float = BEAT_S, **config: Any) -> MiniWorker:
        settings: dict[str, Any] = {"num_blocks": 256, "vocab_size": 300, "timing": ConstantTime(0.001), "lease_s": LEASE_S}
        made = MiniWorker("w", Role.DECODE, EPOCH, self.keys, SimulatedEngineConfig(**(settings | config)), pool, silence_s, pulse_s)
        await made.start()
        self._closing.append(made)
        return made

    def router(self, worker: MiniWorker) -> R:
        made = self._make_router(worker, self.keys, f"bare-{next(self._numbers)}")
        self._closing.append(made)
        return made

    async def close(self) -> None:
        for made in reversed(self._closing):
            await made.close()
        await assert_eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()}, 5.0, "no task left")


@contextlib.asynccontextmanager
async def one_worker(make_router: Callable[[MiniWorker, ChannelKeys, str], R]) -> AsyncIterator[Stage[R]]:
    """A stage for one test."""
    stage = Stage(make_router)
    yield stage
    await stage.close()
