"""A router's connection to one worker: reads messages, notices when it breaks, keeps the newest load."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from cluster.channel import RouterEnd, gather_quietly
from cluster.messages import Answer, Call, FromRouter, FromWorker, Hello, Pulse, StepOutputs, decode_from_worker
from core.errors import EngineFailedError, WorkerLostError
from core.worker import WorkerCard, WorkerLoad

log = logging.getLogger(__name__)

OnMessage = Callable[["WorkerLink", FromWorker, list[bytes]], None]
OnLost = Callable[["WorkerLink", str], None]


_BURST = 16
"""Messages read in a row at most before anything else may run."""


class WorkerLink:
    """Open until ``close``. ``up`` says whether the worker is reachable now; ``on_lost`` is called each time it stops being.

    Up is a connection that stands and over which the worker has spoken. What it said before the connection broke may be read
    later than the break; that does not make it up again.

    A link outlives a broken connection: ZMQ connects again by itself, and the worker is the same one as long as its epoch is.
    """

    def __init__(
        self, card: WorkerCard, end: RouterEnd, hello_s: float, on_message: OnMessage, on_lost: OnLost, hello: Callable[[], Hello] = Hello
    ) -> None:
        """``hello`` is what the worker is told every ``hello_s``."""
        self.card = card
        self.load = WorkerLoad(free_blocks=card.facts.num_blocks, num_blocks=card.facts.num_blocks)
        self.up = False
        self._connected = False
        self._end = end
        self._hello_s = hello_s
        self._hello = hello
        self._on_message = on_message
        self._on_lost = on_lost
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._next_call = 0
        self._tasks = [asyncio.create_task(loop()) for loop in (self._read, self._watch, self._greet)]

    def send(self, message: FromRouter, frames: Sequence[bytes] = ()) -> None:
        """Queues a message for the worker; never waits."""
        self._end.send(message, frames)

    async def call(self, method: str, *args: Any) -> Any:
        """An engine utility on the worker. Raises EngineFailedError, or WorkerLostError when the connection breaks first."""
        self._next_call += 1
        number = self._next_call
        self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self.send(Call(number, method, list(args)))
            return await self._calls[number]
        finally:
            self._calls.pop(number, None)

    async def close(self) -> None:
        """Stops reading and closes the socket."""
        await gather_quietly(*self._tasks)
        self._end.close()
        self._fail_calls("the router closed the connection")

    async def _read(self) -> None:
        for count in itertools.count(1):
            self._received(await self._end.receive())
            if count % _BURST == 0:
                await asyncio.sleep(0)  # receiving what is there already does not: clients would wait for a fast worker

    def _received(self, frames: list[bytes]) -> None:
        try:
            message = decode_from_worker(frames[0])
        except (msgspec.DecodeError, IndexError) as error:
            log.warning("link: dropped a message from %s: %s", self.card.worker, error)
            return
        if isinstance(message, Answer):
            self._answer(message)
            return
        if message.epoch != self.card.epoch:
            return  # another life of the worker; the controller will tell of it
        if isinstance(message, StepOutputs | Pulse):
            self.load = message.load
            self.up = self._connected
        try:
            self._on_message(self, message, frames[1:])
        except Exception:  # one message that nobody can use must not end the reading of all that follow
            log.exception("link: a message from %s could not be handled", self.card.worker)

    def _answer(self, answer: Answer) -> None:
        future = self._calls.get(answer.number)
        if future is None or future.done():
            return
        if answer.error is None:
            future.set_result(answer.value)
        else:
            future.set_exception(EngineFailedError(answer.error))

    async def _watch(self) -> None:
        async for connected in self._end.connections():
            self._connected = connected
            if connected:
                self.send(self._hello())
            elif self.up:
                self.up = False
                self._fail_calls("the connection broke")
                self._on_lost(self, "the connection broke")

    async def _greet(self) -> None:
        while True:
            if self._connected:  # else they would pile up for as long as the worker is away
                self.send(self._hello())
            await asyncio.sleep(self._hello_s)

    def _fail_calls(self, reason: str) -> None:
        for future in self._calls.values():
            if not future.done():
                future.set_exception(WorkerLostError(self.card.worker, reason))
