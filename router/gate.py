"""Who and what is let in: keys, sizes, shapes and pace of requests, before anything of vLLM's server sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.config import Objectives
from core.metrics.words import Why
from router.early_refusal import refusal_text
from router.internal_fields import Asked, Headers, vetted_body, vetted_headers
from router.keys import KeyRing
from router.objectives import Promises
from router.reason import why_of
from router.request_body import NotServableError
from router.served_paths import INFERENCE, SMALL, SMALL_BYTES, WITHOUT_KEY
from router.service import WantedService, serving

Overload = Callable[[WantedService], "tuple[str, float] | None"]
"""Why no request that is to get this is taken now and how long to wait (seconds), or None when one is."""

Refused = Callable[[Why, "WantedService | None"], None]
"""Told of every refusal; the service, if it is known what the request was to get."""

KEY_NAME = "baton_key"
"""Where the name of the client's key is in the ASGI scope's ``state``."""

_NO_PATH = {"path": "*", "raw_path": b"*"}
"""Of a preflight, as HTTP writes "no resource": should nothing answer it, no route or mount is behind it either, only 404."""

_BODY_S = 60.0
_LINGER_S = 2.0


_WHY = {
    HTTPStatus.UNAUTHORIZED: Why.UNAUTHORIZED,
    HTTPStatus.BAD_REQUEST: Why.INVALID,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Why.TOO_LARGE,
    HTTPStatus.REQUEST_TIMEOUT: Why.SLOW_BODY,
}


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, message: str, *, service: WantedService | None = None, **headers: str) -> None:
        super().__init__(message)
        self.why, self.service = _WHY.get(status) or why_of(message), service
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class _LeftError(Exception):
    """The client has gone while it was sending."""


class Gate:
    """ASGI middleware, outside of vLLM's app. Refuses in OpenAI's error form, or hands on a request whose body is there and sound.

    The order is from cheap to dear, and the body is read last: 401, 429 (``overload``), 413 by ``Content-Length``; then 408 for
    a body that takes longer than ``body_timeout_s``, 413 for one that turns out too long, 400 for one that must not go on.
    Whoever is refused before the body was read has the connection closed, a moment later: see ``_linger``.

    ``scope["state"]["baton_key"]`` is the name of the client's key, None without keys. What an inference request is to get
    (``router/objectives.py``) is settled here: all that is behind finds it in ``current_service``, the client in the answer's headers.
    The body has a say in it, so the queue is asked twice: before the body with the most it may turn out to get, and then with that.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        keys: KeyRing | None = None,
        overload: Overload = lambda _: None,
        body_timeout_s: float = _BODY_S,
        promises: Promises | None = None,
        refused: Refused = lambda why, service: None,
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._keys = keys
        self._overload = overload
        self._body_timeout_s = body_timeout_s
        self._promises = promises or Promises(Objectives())
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # none is served: a door less to watch
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope, receive, service = await self._admitted(scope, receive)
        except _RefusedError as refused:
            self._refused(refused.why, refused.service)
            await _answer(receive, send, refused)
        except _LeftError:
            return
        else:
            if service is None:
                await self._app(scope, receive, send)
                return
            with serving(service):
                await self._app(scope, receive, _telling(service, send))

    async def _admitted(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive, WantedService | None]:
        """What to hand on, and what an inference request is to get. Raises _RefusedError, _LeftError."""
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        headers = {name.lower(): value for name, value in reversed(scope["headers"])}  # the first of its name, as Starlette reads it
        if self._is_preflight(path, scope["method"], headers):
            return {**scope, **_NO_PATH}, receive, None
        key = self._key(path, headers)
        scope["state"] = {**scope.get("state", {}), KEY_NAME: key}
        infers = path in INFERENCE and scope["method"] == "POST"
        try:
            tenant = self._promises.tenant(key, headers) if infers else ""
            at_best = self._promises.at_best(tenant, headers) if infers else None
            if at_best is not None:
                self._check_overload(at_best, self._promises.wanted(tenant, headers), connection="close")
            kept = vetted_headers(scope["headers"])
        except NotServableError as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, str(error), connection="close") from None
        if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
            return {**scope, "headers": kept}, receive, at_best and self._promises.wanted(tenant, headers)
        body = await self._body(headers, receive, min(self._max_body_bytes, SMALL_BYTES) if path in SMALL else self._max_body_bytes)
        asked = Asked()
        try:
            if any(name.lower() == b"content-type" and b"json" in value.lower() for name, value in kept):
                vetted = vetted_body(body)
                body, asked = vetted.body, vetted.asked
            service = self._promises.wanted(tenant, headers, asked) if infers else None
        except NotServableError as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from None
        if service is not None and service != at_best:
            self._check_overload(service, service)
        return {**scope, "headers": _with_length(kept, len(body))}, _again(body, receive), service

    def _check_overload(self, service: WantedService, wanted: WantedService, **headers: str) -> None:
        """Whether a request is refused that may get ``service``, and as far as is known gets ``wanted``. Raises _RefusedError."""
        if busy := self._overload(service):
            message, wait_s = busy
            headers["retry_after"] = str(max(1, math.ceil(wait_s)))
            raise _RefusedError(HTTPStatus.TOO_MANY_REQUESTS, refusal_text(message, wait_s), service=wanted, **headers)

    def _is_preflight(self, path: str, method: str, headers: dict[bytes, bytes]) -> bool:
        """Whether a browser asks, without a key, whether it may ask. The middleware that answers goes by these headers, not by the path."""
        asked = {b"origin", b"access-control-request-method"} <= headers.keys()
        return self._keys is not None and path not in WITHOUT_KEY and method == "OPTIONS" and asked

    def _key(self, path: str, headers: dict[bytes, bytes]) -> str | None:
        """The name of the client's key. Raises _RefusedError without one where one is needed."""
        if self._keys is None or path in WITHOUT_KEY:
            return None
        scheme, _, bearer = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key", b"").decode("latin-1")
        name = self._keys.name_of(given) if given else None
        if name is None:
            said = "this is not a key that is known here" if given else "an API key is needed, as `Authorization: Bearer KEY`"
            raise _RefusedError(HTTPStatus.UNAUTHORIZED, said, www_authenticate="Bearer", connection="close")
        return name

    async def _body(self, headers: dict[bytes, bytes], receive: Receive, most: int) -> bytes:
        """All of it. Raises _RefusedError, _LeftError."""
        too_large = _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {most} bytes", connection="close")
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and (len(announced) > 18 or int(announced) > most):
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _LeftError
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            said = f"the body has not arrived within {self._body_timeout_s:g} s"
            raise _RefusedError(HTTPStatus.REQUEST_TIMEOUT, said, connection="close") from None


def _telling(service: WantedService, send: Send) -> Send:
    """``send`` that says in the answer's headers what the request got: what it asked for is not always granted."""
    told = [(b"x-baton-class", service.class_name.encode()), (b"x-baton-priority", str(service.priority).encode())]

    async def send_telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *told]
        await send(message)

    return send_telling


def _with_length(headers: Headers, length: int) -> Headers:
    replaced = {b"content-length", b"transfer-encoding"}
    return [*((name, value) for name, value in headers if name.lower() not in replaced), (b"content-length", str(length).encode())]


def _again(body: bytes, receive: Receive) -> Receive:
    """``receive`` as if nobody had read the body yet."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


_TYPES = {401: "authentication_error", 408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error"}


async def _answer(receive: Receive, send: Send, refused: _RefusedError) -> None:
    kind = _TYPES.get(refused.status, "BadRequestError")
    body = json.dumps({"error": {"message": refused.message, "type": kind, "param": None, "code": refused.status.value}}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status.value, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if "connection" in headers:
        await _linger(receive)
    await send({"type": "http.response.body", "body": b""})


async def _linger(receive: Receive) -> None:
    """Throws away what still comes, for a moment: closing with bytes unread resets the connection, and the answer with it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
