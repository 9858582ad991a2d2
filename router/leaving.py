"""A client that leaves, under Ray Serve: tells vLLM's server so in the way it listens for."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DISCONNECT = {"type": "http.disconnect"}


class LeavingIsTold:
    """ASGI middleware. When a client leaves (or a time limit ends), Serve cancels the task that serves it.

    vLLM's handlers do not survive that: they wait for their work with ``asyncio.wait``, which a cancellation leaves running,
    unseen, to its last token. They do listen for the message that the client has gone. So the app runs in a task of its own.
    A cancellation reaches it as that message while it has not begun to answer, and as a cancellation once it streams.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        left = asyncio.Event()
        answering = False

        async def receive_or_left() -> Message:
            hearing, leaving = asyncio.ensure_future(receive()), asyncio.ensure_future(left.wait())
            try:
                await asyncio.wait({hearing, leaving}, return_when=asyncio.FIRST_COMPLETED)
                return _DISCONNECT if left.is_set() else hearing.result()
            finally:
                hearing.cancel()
                leaving.cancel()

        async def send_unless_left(message: Message) -> None:
            nonlocal answering
            if not left.is_set():
                answering = True
                try:
                    await send(message)
                except asyncio.CancelledError:
                    if not left.is_set():
                        raise
                    _cancelled_at_its_next_wait()
            elif message.get("more_body"):
                _cancelled_at_its_next_wait()

        serving = asyncio.ensure_future(self._app(scope, receive_or_left, send_unless_left))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            left.set()
            if answering:
                serving.cancel()
            await asyncio.wait({serving})
            if not serving.cancelled():
                serving.exception()  # nobody is left to be told
            raise


def _cancelled_at_its_next_wait() -> None:
    """Ends a stream where it waits for what it has to say next, not where it says it.

    An error or a cancellation out of ``send`` would leave the app's generators as they are, and so the request running, until
    the garbage collector finds them.
    """
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
