"""What a client's leaving, told by Ray Serve as a cancellation, looks like to the app behind ``LeavingIsTold``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.leaving import LeavingIsTold

HTTP: Scope = {"type": "http"}
START: Message = {"type": "http.response.start", "status": 200, "headers": []}


class Client:
    """The other end: one request without a body, and what it was sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self._asked = False

    async def receive(self) -> Message:
        if self._asked:
            await asyncio.Event().wait()
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


async def cancelled(app: ASGIApp, client: Client, when: Callable[[], Awaitable[object]]) -> None:
    """Serves with ``app`` and cancels, as Serve does, once ``when`` has come."""
    serving = asyncio.ensure_future(LeavingIsTold(app)(HTTP, client.receive, client.send))
    await when()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_a_handler_that_waits_is_told() -> None:
    """vLLM's way: the work runs in a task, beside one that listens; being cancelled while waiting for both would orphan it."""
    working, stopped = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        working.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def listen(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        both = {asyncio.ensure_future(work()), asyncio.ensure_future(listen(receive))}
        _, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await send(START)
        await send({"type": "http.response.body", "body": b"null"})

    client = Client()
    await cancelled(app, client, working.wait)
    await asyncio.wait_for(stopped.wait(), 1.0)
    assert client.sent == []


async def test_a_stream_is_cancelled() -> None:
    """One that does not listen, either."""
    streaming, stopped = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        streaming.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    await cancelled(app, Client(), streaming.wait)
    assert stopped.is_set()


async def test_a_stream_that_begins_too_late_ends_at_its_first_piece() -> None:
    """The handler was done when the client left."""
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        await send(START)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise AssertionError("went on")

    client = Client()
    await cancelled(app, client, begun.wait)
    assert client.sent == []


async def test_who_stays_notices_nothing() -> None:
    """Messages both ways are passed on as they are; so are errors."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        await send(START)
        raise ValueError("of the app")

    client = Client()
    with pytest.raises(ValueError, match="of the app"):
        await LeavingIsTold(app)(HTTP, client.receive, client.send)
    assert client.sent == [START]
