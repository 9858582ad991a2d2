"""The side channel over ZMQ: every engine listens on one ROUTER socket and asks through one DEALER socket per keeper."""

from __future__ import annotations

import asyncio

import msgspec
import zmq
import zmq.asyncio

from engine.sim_link import Clock, Keeper, Link, LinkRate, Sleep, Verb, Word
from engine.sim_request import RemotePrompt


class _Peer:
    """One keeper's address: its socket, and who waits for which answer."""

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        """Raises ZMQError for what is not an address."""
        self.socket: zmq.asyncio.Socket = context.socket(zmq.DEALER)
        self.socket.connect(address)
        self._asked = 0
        self._answers: dict[bytes, asyncio.Future[bool]] = {}
        self._listening = asyncio.create_task(self._listen())

    async def ask(self, word: Word, within_s: float) -> bool:
        """The keeper's answer; False without one. Raises ZMQError."""
        self._asked += 1
        number = self._asked.to_bytes(8, "big")
        self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(within_s):
                await self.socket.send_multipart([number, msgspec.msgpack.encode(word)])
                return await self._answers[number]
        except TimeoutError:
            return False
        finally:
            del self._answers[number]

    async def _listen(self) -> None:
        while True:
            number, answer = await self.socket.recv_multipart()
            waiting = self._answers.get(number)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer == b"1")

    async def close(self) -> None:
        self._listening.cancel()
        await asyncio.wait([self._listening])
        self.socket.close(linger=0)


class ZmqLink(Link):
    """A link between engines of any processes that reach each other's ``host``. Real clock only."""

    def __init__(self, host: str, answer_s: float, rate: LinkRate, lease_s: float, clock: Clock, sleep: Sleep) -> None:
        super().__init__(rate, lease_s, clock, sleep)
        self.host = host
        self._answer_s = answer_s
        self._context: zmq.asyncio.Context | None = None
        self._peers: dict[str, _Peer] = {}
        self._serving: asyncio.Task[None] | None = None

    async def open(self, engine_id: str, keeper: Keeper) -> None:
        self._context = zmq.asyncio.Context()
        socket: zmq.asyncio.Socket = self._context.socket(zmq.ROUTER)
        self.port = socket.bind_to_random_port(f"tcp://{self.host}")
        self._serving = asyncio.create_task(self._serve(socket, keeper))

    async def say(self, remote: RemotePrompt, verb: Verb) -> bool:
        if self._context is None:
            return False
        address = f"tcp://{remote.host}:{remote.port}"
        try:
            if address not in self._peers:
                self._peers[address] = _Peer(self._context, address)
            return await self._peers[address].ask(Word(remote.engine_id, remote.leg, verb), self._answer_s)
        except zmq.ZMQError:
            return False

    async def close(self) -> None:
        if self._context is None or self._serving is None:
            return
        context, self._context = self._context, None
        self._serving.cancel()
        await asyncio.wait([self._serving])
        for peer in self._peers.values():
            await peer.close()
        context.destroy(linger=0)

    async def _serve(self, socket: zmq.asyncio.Socket, keeper: Keeper) -> None:
        while True:
            reader, number, body = await socket.recv_multipart()
            try:
                kept = keeper(msgspec.msgpack.decode(body, type=Word))
            except msgspec.DecodeError:  # a stranger on the port is told no, and the next reader is served
                kept = False
            await socket.send_multipart([reader, number, b"1" if kept else b"0"])
