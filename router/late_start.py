"""A stream that fails before its first byte: the client gets the status that it means, not 200 and an error event."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.decision_note import current_note

_ANTHROPIC_ERROR = b"event: error\n"
_OPENAI_ERROR = b'data: {"error"'
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_LONGEST = 64 * 1024
"""Bytes of an event that are looked at. An error is a sentence."""


class LateStart:
    """ASGI middleware. Holds the start of a ``text/event-stream`` answer until its first bytes, which are there or not yet.

    vLLM says 200 when it begins to wait for the engine. If the first bytes are an error event, the error's own status and a
    JSON body are sent in its place, and what follows in the stream is dropped. Everything else goes on as it comes; one
    message is held, never more. Events behind the first byte stay events: a status cannot be taken back.

    Anthropic's error events have no status, and what vLLM makes of a request that was given up is lost in its translation: of those
    the note knows better.

    Not for ``/v1/responses``, whose first event says that the response was created, long before anything can fail.
    """

    def __init__(self, app: ASGIApp, retry_after_s: Callable[[], float]) -> None:
        self._app = app
        self._retry_after_s = retry_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held: Message | None = None
        failed = False

        async def send_late(message: Message) -> None:
            nonlocal held, failed
            if failed:
                return
            if message["type"] == "http.response.start" and _is_stream(message):
                held = message
                return
            if held is None:
                await send(message)
                return
            if message["type"] == "http.response.body" and not message.get("body") and message.get("more_body"):
                return  # nothing yet
            start, held = held, None
            error = _error_in(message.get("body", b""))
            if error is None:
                await send(start)
                await send(message)
                return
            failed = True
            status, body = error
            await send({"type": "http.response.start", "status": status, "headers": self._headers(start, status, body)})
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, send_late)
        if held is not None:  # ended without a byte
            await send(held)

    def _headers(self, start: Message, status: int, body: bytes) -> list[tuple[bytes, bytes]]:
        replaced = {b"content-type", b"content-length", b"transfer-encoding"}
        headers = [(name, value) for name, value in start.get("headers", ()) if name.lower() not in replaced]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status in {429, 503}:
            headers.append((b"retry-after", str(max(1, math.ceil(self._retry_after_s()))).encode()))
        return headers


def _is_stream(start: Message) -> bool:
    types = [value for name, value in start.get("headers", ()) if name.lower() == b"content-type"]
    return start["status"] == 200 and any(value.startswith(b"text/event-stream") for value in types)


def _error_in(chunk: bytes) -> tuple[int, bytes] | None:
    """The status and the JSON of a chunk that begins with an error event, or None."""
    if not chunk.startswith((_OPENAI_ERROR, _ANTHROPIC_ERROR)) or len(chunk) > _LONGEST:
        return None
    event = chunk.split(b"\n\n", 1)[0]
    data = event[len(_ANTHROPIC_ERROR) :] if event.startswith(_ANTHROPIC_ERROR) else event
    try:
        value: Any = json.loads(data.removeprefix(b"data: "))
        code = _given_up(value["error"]) if event.startswith(_ANTHROPIC_ERROR) else value["error"]["code"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return (code, json.dumps(value).encode()) if isinstance(code, int) and 400 <= code < 600 else None


def _given_up(error: dict[str, Any]) -> int:
    """The status of an error in Anthropic's form, which then also says why."""
    note = current_note()
    if note is None or note.status is None:
        return 500
    error["type"], error["message"] = _ANTHROPIC_TYPES.get(note.status, "api_error"), note.reason
    return note.status
