"""What a client gets of a stream that fails before its first byte, and that all others are left alone."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from router.decision_note import new_note
from router.late_start import LateStart
from router.leaving import LeavingIsTold

STREAM: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-own", b"1")],
}
DONE = b"data: [DONE]\n\n"


def chunk(body: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def event(code: int, message: str = "why") -> bytes:
    """As vLLM's ``create_streaming_error_response`` writes it."""
    return b"data: " + json.dumps({"error": {"message": message, "type": "T", "param": None, "code": code}}).encode() + b"\n\n"


async def sent_of(messages: list[Message]) -> list[Message]:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    await LateStart(app, lambda: 2.5)({"type": "http"}, receive, send)
    return sent


@pytest.mark.parametrize("code", [400, 429, 500, 503, 504])
async def test_an_error_in_place_of_the_first_byte_is_a_status(code: int) -> None:
    """With the error as JSON, when to come back, and nothing of the stream."""
    start, body = await sent_of([STREAM, chunk(event(code)), chunk(DONE), chunk(b"", more=False)])
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"], headers[b"x-own"]) == (code, b"application/json", b"1")
    assert headers.get(b"retry-after") == (b"3" if code in {429, 503} else None)
    assert json.loads(body["body"])["error"]["code"] == code
    assert headers[b"content-length"] == str(len(body["body"])).encode()
    assert not body.get("more_body")


async def test_anthropics_error_event() -> None:
    """It has no code: what gets so far is the server's failure."""
    failed = b'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"why"}}\n\n'
    start, body = await sent_of([STREAM, chunk(failed), chunk(b"", more=False)])
    assert (start["status"], json.loads(body["body"])["error"]["message"]) == (500, "why")


ANTHROPIC = {429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error", 502: "api_error"}


@pytest.mark.parametrize("status", ANTHROPIC)
async def test_anthropics_error_event_of_a_request_that_was_given_up(status: int) -> None:
    """vLLM makes an internal error of it, without a status; the status and the words are those with which it was given up."""
    note = new_note()
    note.status, note.reason = status, "no worker is ready"
    failed = b'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"2 validation errors"}}\n\n'
    start, body = await sent_of([STREAM, chunk(failed), chunk(b"", more=False)])
    assert start["status"] == status
    assert json.loads(body["body"]) == {"type": "error", "error": {"type": ANTHROPIC[status], "message": "no worker is ready"}}


LEFT_ALONE = {
    "tokens": [STREAM, chunk(b'data: {"choices": []}\n\n'), chunk(DONE), chunk(b"", more=False)],
    "an error behind tokens": [STREAM, chunk(b'data: {"choices": []}\n\n'), chunk(event(500)), chunk(DONE, more=False)],
    "a comment that keeps the connection alive": [STREAM, chunk(b": keep-alive\n\n"), chunk(event(500), more=False)],
    "an error of a code that is none": [STREAM, chunk(event(7)), chunk(DONE, more=False)],
    "text that looks like one": [STREAM, chunk(b'data: {"error": broken\n\n', more=False)],
    "more than a sentence": [STREAM, chunk(event(500, "x" * 100_000), more=False)],
    "an empty stream": [STREAM, chunk(b"", more=False)],
    "no stream": [{**STREAM, "headers": [(b"content-type", b"application/json")]}, chunk(event(500), more=False)],
    "another status": [{**STREAM, "status": 404}, chunk(event(500), more=False)],
}


@pytest.mark.parametrize("messages", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
async def test_everything_else_passes_unchanged(messages: list[Message]) -> None:
    """Message for message."""
    assert await sent_of(messages) == messages


async def test_a_start_that_nothing_follows_is_sent_all_the_same() -> None:
    """The server below completes it, or complains."""
    assert await sent_of([STREAM]) == [STREAM]


async def test_the_first_byte_is_not_delayed() -> None:
    """The start goes out with it, while the app waits for the second."""
    sent: list[Message] = []
    first = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(STREAM)
        await send(chunk(b"data: 1\n\n"))
        first.set()
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        sent.append(message)

    serving = asyncio.ensure_future(LateStart(app, lambda: 1.0)({"type": "http"}, None, send))  # type: ignore[arg-type]
    await first.wait()
    assert sent == [STREAM, chunk(b"data: 1\n\n")]
    serving.cancel()
    await asyncio.wait({serving})


async def test_a_client_that_leaves_before_the_first_byte_ends_the_stream() -> None:
    """The app counts as answering since it has begun to, though nothing was sent: it is cancelled, not told."""
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(STREAM)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError("nothing is to be sent")

    serving = asyncio.ensure_future(LateStart(LeavingIsTold(app), lambda: 1.0)({"type": "http"}, receive, send))
    await begun.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert stopped.is_set()
