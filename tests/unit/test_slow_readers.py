"""A client that does not read is cut; one that reads slowly is not."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send

from router.leaving import LeavingIsTold
from router.slow_readers import SlowReaders
from tests.support.eventually import assert_eventually


async def test_an_answer_that_nobody_reads_is_ended() -> None:
    """The app behind is ended as for a client that has left, and the task of the server ends without an error."""
    stopped, sent = asyncio.Event(), 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while True:
                await asyncio.sleep(0)  # for what the engine says next
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
        finally:
            stopped.set()

    async def send(message: Message) -> None:
        nonlocal sent
        sent += 1
        if sent == 3:
            await asyncio.Event().wait()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async with asyncio.timeout(10.0):
        await SlowReaders(LeavingIsTold(app), 0.05)({"type": "http"}, receive, send)
    assert stopped.is_set()
    assert sent == 3


async def test_time_counts_from_the_message_that_stalls() -> None:
    """An engine may think for long, and a reader may take long in all, as long as something moves."""
    moved = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.15)  # longer than the limit: the engine thinks
        for _ in range(6):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        moved.set()

    async def send(message: Message) -> None:
        await asyncio.sleep(0.02)

    await SlowReaders(app, 0.1)({"type": "http"}, None, send)  # type: ignore[arg-type]
    assert moved.is_set()


async def test_a_cancellation_from_outside_stays_one() -> None:
    """Serve's word that the client has left is not swallowed, and no timer is left."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    serving = asyncio.ensure_future(SlowReaders(app, 0.05)({"type": "http"}, None, None))  # type: ignore[arg-type]
    await assert_eventually(lambda: len(asyncio.all_tasks()) > 1)
    await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait({serving})
    assert serving.cancelled()
