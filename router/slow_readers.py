"""A client that stops reading its answer, and holds the connection open."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)


class SlowReaders:
    """ASGI middleware: ends an answer of which nothing could be sent for ``stalled_s``.

    The server below holds 64 KiB for a client that does not read, and then ``send`` waits. What the engine goes on to produce
    is merged by vLLM into one output, so a stalled request costs memory for its own tokens and no more; but it would cost it
    for as long as the client likes, with a place among the router's requests. Cut, it is like a client that has left.
    """

    def __init__(self, app: ASGIApp, stalled_s: float) -> None:
        self._app = app
        self._stalled_s = stalled_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        since_s: float | None = None
        cut = False
        timer: asyncio.TimerHandle | None = None

        def look() -> None:  # one timer per answer, not one per token
            nonlocal cut, timer
            if since_s is not None and loop.time() - since_s >= self._stalled_s:
                cut = True
                task.cancel()
            else:
                timer = loop.call_later(self._stalled_s / 4, look)

        async def send_watched(message: Message) -> None:
            nonlocal since_s
            since_s = loop.time()
            try:
                await send(message)
            finally:
                since_s = None

        timer = loop.call_later(self._stalled_s / 4, look)
        try:
            await self._app(scope, receive, send_watched)
        except asyncio.CancelledError:
            if not cut:
                raise
            log.warning("slow readers: cut an answer of which nothing was read for %.0f s", self._stalled_s)
            if task.uncancel():
                raise
        finally:
            if timer is not None:
                timer.cancel()
