"""What a client's leaving, told by Ray Serve as a cancellation, looks like to the app behind ``LeavingIsTold``."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.leaving import LeavingIsTold
from tests.support.eventually import assert_eventually

HTTP: Scope = {"type": "http"}
START: Message = {"type": "http.response.start", "status": 200, "headers": []}


class Client:
    """The other end: one request without a body, and what it was sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.reads = asyncio.Event()
        """Whether it takes what it is sent."""
        self.reads.set()
        self._asked = False

    async def receive(self) -> Message:
        if self._asked:
            await asyncio.Event().wait()
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        await self.reads.wait()


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
    async with asyncio.timeout(1.0):
        await stopped.wait()
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


@pytest.mark.parametrize("spec_version", ["2.0", "2.4"])  # Starlette listens for leaving clients itself in the first, not in the second
@pytest.mark.parametrize("token_comes", ["before", "after", "while sending"])
async def test_a_stream_that_has_something_to_say_just_then_ends_at_once(spec_version: str, token_comes: str) -> None:
    """Its generators are told, the innermost too, without waiting for the garbage collector: they are what aborts the request."""
    token, stopped = asyncio.Event(), asyncio.Event()

    async def tokens() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                await token.wait()
                token.clear()
                yield b"token"
        finally:
            stopped.set()

    async def events() -> AsyncGenerator[bytes, None]:
        async for said in tokens():
            yield said

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await StreamingResponse(events(), media_type="text/event-stream")(scope, receive, send)

    client = Client()
    scope = {**HTTP, "asgi": {"spec_version": spec_version}}
    serving = asyncio.ensure_future(LeavingIsTold(app)(scope, client.receive, client.send))
    token.set()
    await assert_eventually(lambda: len(client.sent) == 2, 1.0, "it streams")
    gc.disable()
    try:
        if token_comes == "while sending":
            client.reads.clear()
            token.set()
            await assert_eventually(lambda: len(client.sent) == 3, 1.0, "it sends")
        if token_comes == "before":
            token.set()
        serving.cancel()
        if token_comes == "after":
            token.set()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(1.0):
                await serving
        assert stopped.is_set()
    finally:
        gc.enable()


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
