"""The trace of one HTTP request, and how it comes from the door, where its headers are, to the requests that are made of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.metrics.words import Why
from core.trace import Anchor, Bits, Export, Span, SpanKind, TraceContext, Value, incoming, new_trace
from router.served_paths import INFERENCE


@dataclass(slots=True)
class HttpTrace:
    """Open as long as its request is served. Only there for what is sampled."""

    context: TraceContext
    parent_id: str
    anchor: Anchor
    bits: Bits
    export: Export
    attributes: dict[str, Value] = field(default_factory=dict)
    error: str | None = None

    def refused(self, why: Why) -> None:
        """Nothing of it was taken in, or a part of it was not."""
        self.attributes["baton.refusal.reason"] = why

    def answered(self, status: int) -> None:
        """The answer has begun."""
        self.attributes["http.response.status_code"] = status
        if status >= HTTPStatus.BAD_REQUEST:
            self.error = f"HTTP {status}"


_current: ContextVar[HttpTrace | None] = ContextVar("baton_trace", default=None)


def current_trace() -> HttpTrace | None:
    """Of the HTTP request that is being served here; None where none is, where tracing is off, and where this one is not sampled."""
    return _current.get()


class Traced:
    """ASGI middleware, outside of all others: spans for requests that may cost the workers something, refused ones included.

    A caller's ``traceparent`` decides whether its trace is told of; without one, ``sample`` does. The answer says in ``traceresponse``
    which trace it was. Nothing is told of requests without a key where one is needed: nobody else's traces are crowded out by them.
    ``clock`` is the dispatcher's.
    """

    def __init__(
        self,
        app: ASGIApp,
        export: Export,
        sample: float,
        slowdown: float = 1.0,
        bits: Bits = random.getrandbits,
        unix_ns: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._export = export
        self._sample = sample
        self._slowdown = slowdown
        self._bits = bits
        self._unix_ns = unix_ns
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = self._begun(scope)
        if trace is None:
            await self._app(scope, receive, send)
            return
        told = (b"traceresponse", trace.context.headers["traceparent"].encode())

        async def send_traced(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.answered(message["status"])
                message["headers"] = [*message.get("headers", ()), told]
            await send(message)

        token = _current.set(trace)
        try:
            await self._app(scope, receive, send_traced)
        except BaseException as error:
            trace.error = type(error).__name__
            raise
        finally:
            _current.reset(token)
            self._ended(trace, scope)

    def _begun(self, scope: Scope) -> HttpTrace | None:
        if scope["type"] != "http" or scope["method"] != "POST" or _path(scope) not in INFERENCE:
            return None
        headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        parent = incoming(_values(headers, b"traceparent"), _values(headers, b"tracestate"))
        above = new_trace(self._bits, self._sample) if parent is None else parent
        if not above.sampled:
            return None
        anchor = Anchor(self._unix_ns(), self._clock(), self._slowdown)
        return HttpTrace(above.child(self._bits), above.span_id, anchor, self._bits, self._export)

    def _ended(self, trace: HttpTrace, scope: Scope) -> None:
        if trace.attributes.get("http.response.status_code") == HTTPStatus.UNAUTHORIZED:
            return
        path = _path(scope)
        attributes: dict[str, Value] = {"http.request.method": "POST", "url.path": path, **trace.attributes}
        begin_ns, end_ns = (trace.anchor.at_ns(at_s) for at_s in (trace.anchor.clock_s, self._clock()))
        self._export([Span(f"POST {path}", trace.context, trace.parent_id, begin_ns, end_ns, attributes, SpanKind.SERVER, trace.error)])


def _path(scope: Scope) -> str:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path


def _values(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in headers if name.lower() == wanted]
