"""The way in, for whatever stands at the door: whose key it is, the body within its bounds, and how somebody is turned away."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.types import Message, Receive, Scope, Send

from core.metrics.words import Why
from router.keys import KeyRing
from router.reason import why_of
from router.served_paths import SMALL, SMALL_BYTES, WITHOUT_KEY
from router.service import WantedService

BODY_S = 60.0
_LINGER_S = 2.0


_WHY = {
    HTTPStatus.UNAUTHORIZED: Why.UNAUTHORIZED,
    HTTPStatus.BAD_REQUEST: Why.INVALID,
    HTTPStatus.NOT_FOUND: Why.INVALID,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Why.TOO_LARGE,
    HTTPStatus.REQUEST_TIMEOUT: Why.SLOW_BODY,
}


class RefusedError(Exception):
    """Turned away. ``param`` is the field it is about; names of the answer's ``headers`` have ``_`` for ``-``."""

    def __init__(
        self, status: HTTPStatus, message: str, *, service: WantedService | None = None, param: str | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.param = param
        self.why, self.service = _WHY.get(status) or why_of(message), service
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class LeftError(Exception):
    """The client has gone while it was sending."""


class Entrance:
    """Without ``keys`` nobody needs one. A body has ``body_timeout_s`` to arrive."""

    def __init__(self, max_body_bytes: int, keys: KeyRing | None = None, body_timeout_s: float = BODY_S) -> None:
        self._max_body_bytes = max_body_bytes
        self._keys = keys
        self._body_timeout_s = body_timeout_s

    @property
    def asks_for_keys(self) -> bool:
        """Whether anybody needs one."""
        return self._keys is not None

    def key(self, path: str, headers: Mapping[bytes, bytes]) -> str | None:
        """The name of the client's key. Raises RefusedError without one where one is needed."""
        if self._keys is None or path in WITHOUT_KEY:
            return None
        scheme, _, bearer = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key", b"").decode("latin-1")
        name = self._keys.name_of(given) if given else None
        if name is None:
            said = "this is not a key that is known here" if given else "an API key is needed, as `Authorization: Bearer KEY`"
            raise RefusedError(HTTPStatus.UNAUTHORIZED, said, www_authenticate="Bearer", connection="close")
        return name

    async def body(self, path: str, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """All of it. Raises RefusedError, LeftError."""
        most = min(self._max_body_bytes, SMALL_BYTES) if path in SMALL else self._max_body_bytes
        too_large = RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {most} bytes", connection="close")
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and (len(announced) > 18 or int(announced) > most):
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise LeftError
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            said = f"the body has not arrived within {self._body_timeout_s:g} s"
            raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, said, connection="close") from None


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """By lower-case name; the first of each name, as Starlette reads it."""
    return {name.lower(): value for name, value in reversed(scope["headers"])}


def has_body(headers: Mapping[bytes, bytes]) -> bool:
    """Whether something follows the headers."""
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def again_of(body: bytes, receive: Receive) -> Receive:
    """``receive`` as if nobody had read the body yet."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


_TYPES = {401: "authentication_error", 404: "NotFoundError", 408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error"}


async def turn_away(receive: Receive, send: Send, refused: RefusedError) -> None:
    """Answers in OpenAI's error form."""
    kind = _TYPES.get(refused.status, "BadRequestError")
    body = json.dumps({"error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.status.value}}).encode()
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
