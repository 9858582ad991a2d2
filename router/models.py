"""Several models behind one endpoint: each has a whole server of its own in this process, and this is the door before them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.ids import RouterId
from core.metrics.words import Why
from router.entrance import Entrance, LeftError, RefusedError, again_of, has_body, headers_of, turn_away
from router.selection import TARGETS, Way, model_in_address, model_in_body, unknown, way
from router.served_paths import WITHOUT_KEY
from router.service import WantedService


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model's server, gate and all."""

    app: ASGIApp
    serves: Callable[[str], bool]
    """Whether it answers to that name, which may be another one than the model's own."""
    refused: Callable[[Why, WantedService | None], None]
    """Counts a request that came no further than the door."""


class Models:
    """ASGI app. Whoever asks for a model gets that model's server, which sees the request as if it were the only one there.

    The body is read here, once, within the same bounds and behind the same key: it is what names the model. What is about no model, and
    what is refused before one is known, is the first one's, also in its metrics.
    """

    def __init__(self, models: Mapping[str, ServedModel], entrance: Entrance, router: RouterId) -> None:
        self._models = models
        self._first = next(iter(models.values()))
        self._entrance = entrance
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._first.app(scope, receive, send)
            return
        try:
            await self._serve(scope, receive, send)
        except RefusedError as refused:
            self._first.refused(refused.why, refused.service)
            refused.headers["x-baton-router"] = self._router
            await turn_away(receive, send, refused)
        except LeftError:
            return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises RefusedError, LeftError."""
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        found = Way.FIRST if scope["method"] == "OPTIONS" else way(scope["method"], path)
        in_address = None if found is Way.BY_BODY else model_in_address(scope.get("query_string", b""))
        headers = headers_of(scope)
        open_to_all = path in WITHOUT_KEY or scope["method"] == "OPTIONS"  # the same of every model; who is served stays behind the key
        if found is Way.FIRST and (in_address is None or open_to_all):
            await self._first.app(scope, receive, send)
            return
        self._entrance.key(path, headers)
        body = await self._entrance.body(path, headers, receive) if has_body(headers) else b""
        if found is Way.BY_BODY:
            in_body = model_in_body(body, self._models)
            chosen = self._first if in_body is None else self._of(in_body)
            await chosen.app(scope, again_of(body, receive), send)
        elif in_address is not None:
            await self._of(in_address).app(scope, again_of(body, receive), send)
        elif found is Way.EACH:
            await self._answer_of_each(path, scope, send)
        else:
            await self._answer_of_one(scope, body, receive, send)

    def _of(self, name: str) -> ServedModel:
        """Raises RefusedError for what nobody serves."""
        model = self._models.get(name) or next((model for model in self._models.values() if model.serves(name)), None)
        if model is None:
            raise unknown(name, self._models)
        return model

    async def _answer_of_each(self, path: str, scope: Scope, send: Send) -> None:
        answers = await asyncio.gather(*(_asked(model.app, scope) for model in self._models.values()))
        by_model = dict(zip(self._models, answers, strict=True))
        status, told = HTTPStatus.OK, together(path, by_model)
        away = [name for name, (answered, _) in by_model.items() if answered != HTTPStatus.OK]
        if path == TARGETS and away:  # Prometheus then keeps the list it has, rather than one without all of a model's
            status, told = HTTPStatus.SERVICE_UNAVAILABLE, {"detail": f"the controller of {', '.join(away)} does not answer"}
        body = json.dumps(told).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers.append((b"x-baton-router", self._router.encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer_of_one(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        *others, last = self._models.values()
        for model in others:
            attempt = _UnlessUnknown(send)
            await model.app(dict(scope), again_of(body, receive), attempt)
            if attempt.known:
                return
        await last.app(scope, again_of(body, receive), send)


def together(path: str, answers: Mapping[str, tuple[int, Any]]) -> Any:
    """What all models say, of each its status and what it told: lists one behind the other; anything else by model, and where a model
    had trouble, that."""
    good = [told for status, told in answers.values() if status == HTTPStatus.OK]
    if path == "/v1/models":
        return {"object": "list", "data": [card for told in good for card in told["data"]]}
    if path == TARGETS:
        return [target for told in good for target in told]
    return {"models": {name: told if status == HTTPStatus.OK else {"error": _why(told)} for name, (status, told) in answers.items()}}


def _why(told: Any) -> str:
    """What a server's error says."""
    error = told.get("error", told) if isinstance(told, dict) else told
    return str(error.get("message", error) if isinstance(error, dict) else error)


async def _asked(app: ASGIApp, scope: Scope) -> tuple[int, Any]:
    """Status and JSON of what a model's server answers."""
    status, body = HTTPStatus.INTERNAL_SERVER_ERROR.value, bytearray()

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        body.extend(message.get("body", b""))

    await app(dict(scope), again_of(b"", _stays), send)
    try:
        return status, json.loads(bytes(body))
    except ValueError:
        return status, body.decode(errors="replace")


async def _stays() -> Message:
    """A client that does not leave: it is not told of what one model's server says."""
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


class _UnlessUnknown:
    """``send`` that keeps a 404 to itself."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.known = True

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.known = message["status"] != HTTPStatus.NOT_FOUND
        if self.known:
            await self._send(message)
