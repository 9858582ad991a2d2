"""The data plane's two ends: ZMQ sockets with CURVE, message frames in and out. No decisions.

A peer that is gone is noticed below the event loops: ZMQ's own heartbeats close a silent connection and a killed process
closes it at once. The worker's end then cannot route to that router any more; the router's end gets a disconnect event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import zmq
import zmq.asyncio
import zmq.auth.asyncio
from zmq.utils.monitor import parse_monitor_message

from cluster.messages import FromRouter, FromWorker, encode
from core.ids import RouterId


class ChannelKeys(msgspec.Struct, frozen=True):
    """One side's CURVE key pair, Z85 text."""

    public: str
    secret: str

    @classmethod
    def make(cls) -> ChannelKeys:
        """A fresh random pair."""
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())


class _OnlyRouters:
    """Lets in the routers' key and nobody else."""

    def __init__(self, public: str) -> None:
        self._public = public.encode()

    def callback(self, domain: str, key: bytes) -> bool:
        return key == self._public


def _harden(socket: zmq.asyncio.Socket, silence_s: float) -> None:
    """Limits common to both ends: no queue bound (a slow reader is cut by its silence, not by dropped tokens)."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.set_hwm(0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, max(100, int(silence_s * 250)))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(silence_s * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TTL, int(silence_s * 1000))


class WorkerEnd:
    """A worker's socket: many routers come to it.

    ``host`` is the address to bind and to be reached at; the port is chosen by the system. Frames from peers without the
    routers' key never get here.
    """

    def __init__(self, host: str, keys: ChannelKeys, router_public_key: str, silence_s: float) -> None:
        self._context = zmq.asyncio.Context()
        self._gate = zmq.auth.asyncio.AsyncioAuthenticator(self._context)
        self._gate.configure_curve_callback("*", credentials_provider=_OnlyRouters(router_public_key))
        self._gate.start()
        self._socket = self._context.socket(zmq.ROUTER)
        _harden(self._socket, silence_s)
        self._socket.curve_server = True
        self._socket.curve_publickey = keys.public.encode()
        self._socket.curve_secretkey = keys.secret.encode()
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        shown = f"[{host}]" if ":" in host else host
        if ":" in host:
            self._socket.setsockopt(zmq.IPV6, 1)
        self._events = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        port = self._socket.bind_to_random_port(f"tcp://{shown}")
        self.address = f"tcp://{shown}:{port}"

    async def receive(self) -> tuple[RouterId, list[bytes]]:
        """The next message and who sent it."""
        identity, *frames = await self._socket.recv_multipart()
        return RouterId(identity.decode(errors="replace")), frames

    async def send(self, router: RouterId, message: FromWorker, frames: Sequence[bytes] = ()) -> bool:
        """False when that router is no longer connected; nothing was sent then."""
        try:
            await self._socket.send_multipart([router.encode(), encode(message), *frames])
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        return True

    async def lost(self) -> None:
        """Returns when some router's connection has just been lost. Which one's, sending shows."""
        await self._events.recv_multipart()

    def close(self) -> None:
        """Closes at once; messages not yet sent are dropped. Twice is once."""
        if self._socket.closed:
            return
        self._socket.disable_monitor()
        self._events.close(0)
        self._socket.close(0)
        self._gate.stop()
        self._context.term()


class RouterEnd:
    """A router's socket to one worker."""

    def __init__(
        self, context: zmq.asyncio.Context, router: RouterId, address: str, worker_public_key: str, keys: ChannelKeys, silence_s: float
    ) -> None:
        self._socket = context.socket(zmq.DEALER)
        _harden(self._socket, silence_s)
        self._socket.setsockopt(zmq.IDENTITY, router.encode())
        self._socket.curve_serverkey = worker_public_key.encode()
        self._socket.curve_publickey = keys.public.encode()
        self._socket.curve_secretkey = keys.secret.encode()
        self._socket.setsockopt(zmq.IPV6, int("[" in address))
        self._sending: set[asyncio.Future[object]] = set()
        self._events = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._socket.connect(address)

    async def receive(self) -> list[bytes]:
        """The next message's frames."""
        return list(await self._socket.recv_multipart())

    def send(self, message: FromRouter, frames: Sequence[bytes] = ()) -> None:
        """Queues the message and returns at once; it waits in the queue while the connection is not there."""
        sent: asyncio.Future[object] = self._socket.send_multipart([encode(message), *frames])  # type: ignore[assignment]  # a Future, typed wider
        if not sent.done():  # kept, or a future nobody holds may be collected before it is done
            self._sending.add(sent)
            sent.add_done_callback(self._sending.discard)

    async def connections(self) -> AsyncIterator[bool]:
        """True each time the worker has been reached and has let us in, False each time the connection was lost."""
        while True:
            event = parse_monitor_message(await self._events.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                yield True
            elif event == zmq.EVENT_DISCONNECTED:
                yield False

    def close(self) -> None:
        """Closes at once; messages not yet sent are dropped."""
        self._socket.disable_monitor()
        self._events.close(0)  # an open one would stay registered with the event loop, one for every worker there ever was
        self._socket.close(0)


async def gather_quietly(*tasks: asyncio.Task[None]) -> None:
    """Cancels tasks and waits until each has ended, whatever it ended with."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
