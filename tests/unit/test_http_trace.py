"""Traces at the door: which requests have one, whose it is, and what is told of it."""

from __future__ import annotations

import random
from http import HTTPStatus

import pytest
from starlette.types import Message, Receive, Scope, Send

from core.metrics.words import Why
from core.trace import Span
from router.http_trace import Traced, current_trace

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED, UNSAMPLED = (f"00-{TRACE}-b7ad6b7169203331-{flags}".encode() for flags in ("01", "00"))


class Door:
    """A traced app that answers with ``status``; ``spans`` is what was told."""

    def __init__(self, sample: float = 1.0, status: int = 200) -> None:
        self.spans: list[Span] = []
        self.status = status
        self.headers: dict[bytes, bytes] = {}
        self.inside: list[bool] = []
        self.now_s = 7.0
        bits = random.Random(0).getrandbits
        self._app = Traced(self._answer, self.spans.extend, sample, bits=bits, unix_ns=lambda: 10**18, clock=lambda: self.now_s)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = current_trace()
        self.inside.append(trace is not None)
        self.now_s += 2.0
        if trace is not None and self.status == HTTPStatus.TOO_MANY_REQUESTS:
            trace.refused(Why.QUEUE_FULL)
        if self.status == 0:
            raise OSError("broken")
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    async def ask(self, *headers: tuple[bytes, bytes], path: str = "/v1/completions", method: str = "POST", kind: str = "http") -> None:
        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            self.headers |= dict(message.get("headers", ()))

        await self._app({"type": kind, "path": path, "method": method, "root_path": "", "headers": list(headers)}, receive, send)
        assert current_trace() is None


async def test_a_callers_trace_goes_on() -> None:
    """Its span is the parent of ours, from the first to the last of it; the answer says so."""
    door = Door()
    await door.ask((b"Traceparent", SAMPLED), (b"tracestate", b"a=1"), (b"tracestate", b"b=2"))
    [span] = door.spans
    assert (span.context.trace_id, span.parent_id, span.context.state) == (TRACE, "b7ad6b7169203331", "a=1,b=2")
    assert (span.name, span.begin_ns, span.end_ns, span.error) == ("POST /v1/completions", 10**18, 10**18 + 2 * 10**9, None)
    assert door.headers[b"traceresponse"].decode() == span.context.headers["traceparent"]
    assert door.headers[b"a"] == b"b"


WHETHER: dict[str, tuple[float, list[tuple[bytes, bytes]], bool]] = {
    "nobody's, all sampled": (1.0, [], True),
    "nobody's, none sampled": (0.0, [], False),
    "the caller samples": (0.0, [(b"traceparent", SAMPLED)], True),
    "the caller does not": (1.0, [(b"traceparent", UNSAMPLED)], False),
    "it cannot be read": (1.0, [(b"traceparent", b"00-xyz")], True),
    "it cannot be read, none sampled": (0.0, [(b"traceparent", b"00-xyz")], False),
    "it is there twice": (0.0, [(b"traceparent", SAMPLED)] * 2, False),
    "it is not even text": (1.0, [(b"traceparent", b"\xff\x00")], True),
}


@pytest.mark.parametrize("case", WHETHER)
async def test_who_decides(case: str) -> None:
    """The caller, if it says anything that can be read; else the share. What is not sampled has no trace anywhere."""
    sample, headers, expected = WHETHER[case]
    door = Door(sample)
    await door.ask(*headers)
    assert (door.inside, bool(door.spans), b"traceresponse" in door.headers) == ([expected], expected, expected)


@pytest.mark.parametrize(("path", "method", "kind"), [("/v1/models", "GET", "http"), ("/health", "POST", "http"), ("/", "", "lifespan")])
async def test_other_requests_have_none(path: str, method: str, kind: str) -> None:
    """What costs workers nothing is not told of."""
    door = Door()
    await door.ask((b"traceparent", SAMPLED), path=path, method=method, kind=kind)
    assert (door.inside, door.spans) == ([False], [])


async def test_refusals() -> None:
    """With status and reason; but not of those without a key, who could otherwise fill the collector."""
    door = Door(status=429)
    await door.ask()
    [span] = door.spans
    assert (span.error, span.attributes["http.response.status_code"]) == ("HTTP 429", 429)
    assert span.attributes["baton.refusal.reason"] == "queue_full"
    unknown = Door(status=401)
    await unknown.ask((b"traceparent", SAMPLED))
    assert unknown.spans == []


async def test_what_breaks() -> None:
    """Breaks as it did, and is told."""
    door = Door(status=0)
    with pytest.raises(OSError, match="broken"):
        await door.ask()
    assert door.spans[0].error == "OSError"
