"""Who and what is let in: keys, sizes, shapes and pace of requests, before anything of vLLM's server sees them."""

from __future__ import annotations

import math
from collections.abc import Callable
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.metrics.words import Why
from core.objectives_config import Objectives
from router.early_refusal import refusal_text
from router.entrance import BODY_S, Entrance, LeftError, RefusedError, again_of, has_body, headers_of, turn_away
from router.internal_fields import Asked, Headers, vetted_body, vetted_headers
from router.keys import KeyRing
from router.objectives import Promises
from router.request_body import NotServableError
from router.served_paths import INFERENCE, WITHOUT_KEY
from router.service import WantedService, serving

Overload = Callable[[WantedService], "tuple[str, float] | None"]
"""Why no request that is to get this is taken now and how long to wait (seconds), or None when one is."""

Refused = Callable[[Why, "WantedService | None"], None]
"""Told of every refusal; the service, if it is known what the request was to get."""

KEY_NAME = "baton_key"
"""Where the name of the client's key is in the ASGI scope's ``state``."""

_NO_PATH = {"path": "*", "raw_path": b"*"}
"""Of a preflight, as HTTP writes "no resource": should nothing answer it, no route or mount is behind it either, only 404."""


class Gate:
    """ASGI middleware, outside of vLLM's app. Refuses in OpenAI's error form, or hands on a request whose body is there and sound.

    The order is from cheap to dear, and the body is read last: 401, 429 (``overload``), 413 by ``Content-Length``; then 408 for
    a body that takes longer than ``body_timeout_s``, 413 for one that turns out too long, 400 for one that must not go on.
    Whoever is refused before the body was read has the connection closed, a moment later: see ``router/entrance.py``.

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
        body_timeout_s: float = BODY_S,
        promises: Promises | None = None,
        refused: Refused = lambda why, service: None,
    ) -> None:
        self._app = app
        self._entrance = Entrance(max_body_bytes, keys, body_timeout_s)
        self._overload = overload
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
        except RefusedError as refused:
            self._refused(refused.why, refused.service)
            await turn_away(receive, send, refused)
        except LeftError:
            return
        else:
            if service is None:
                await self._app(scope, receive, send)
                return
            with serving(service):
                await self._app(scope, receive, _telling(service, send))

    async def _admitted(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive, WantedService | None]:
        """What to hand on, and what an inference request is to get. Raises RefusedError, LeftError."""
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        headers = headers_of(scope)
        if self._is_preflight(path, scope["method"], headers):
            return {**scope, **_NO_PATH}, receive, None
        key = self._entrance.key(path, headers)
        scope["state"] = {**scope.get("state", {}), KEY_NAME: key}
        infers = path in INFERENCE and scope["method"] == "POST"
        try:
            tenant = self._promises.tenant(key, headers) if infers else ""
            at_best = self._promises.at_best(tenant, headers) if infers else None
            if at_best is not None:
                self._check_overload(at_best, self._promises.wanted(tenant, headers), connection="close")
            kept = vetted_headers(scope["headers"])
        except NotServableError as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, str(error), connection="close") from None
        if not has_body(headers):
            return {**scope, "headers": kept}, receive, at_best and self._promises.wanted(tenant, headers)
        body = await self._entrance.body(path, headers, receive)
        asked = Asked()
        try:
            if any(name.lower() == b"content-type" and b"json" in value.lower() for name, value in kept):
                vetted = vetted_body(body)
                body, asked = vetted.body, vetted.asked
            service = self._promises.wanted(tenant, headers, asked) if infers else None
        except NotServableError as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from None
        if service is not None and service != at_best:
            self._check_overload(service, service)
        return {**scope, "headers": _with_length(kept, len(body))}, again_of(body, receive), service

    def _check_overload(self, service: WantedService, wanted: WantedService, **headers: str) -> None:
        """Whether a request is refused that may get ``service``, and as far as is known gets ``wanted``. Raises RefusedError."""
        if busy := self._overload(service):
            message, wait_s = busy
            headers["retry_after"] = str(max(1, math.ceil(wait_s)))
            raise RefusedError(HTTPStatus.TOO_MANY_REQUESTS, refusal_text(message, wait_s), service=wanted, **headers)

    def _is_preflight(self, path: str, method: str, headers: dict[bytes, bytes]) -> bool:
        """Whether a browser asks, without a key, whether it may ask. The middleware that answers goes by these headers, not by the path."""
        asked = {b"origin", b"access-control-request-method"} <= headers.keys()
        return self._entrance.asks_for_keys and path not in WITHOUT_KEY and method == "OPTIONS" and asked


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
