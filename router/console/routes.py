"""The page and what it asks for. Whoever looks costs a router no more than one look a second."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from core.ids import RouterId
from router.console.files import FILES, HEADERS, PAGE, WITH_SLASH
from router.console.heard import Heard
from router.console.state import console_state
from router.dispatcher import Dispatcher

Ask = Callable[[], Awaitable[dict[str, Any]]]

_FRESH_S = 0.4
"""However many pages look, the state is made anew so often at most."""
_CONTROLLER_FRESH_S = 1.5
_SCALING_FRESH_S = 2.0


class Console:
    """One router's."""

    def __init__(
        self,
        router: RouterId,
        dispatcher: Dispatcher,
        status: Ask,
        scaling: Callable[[int], Awaitable[dict[str, Any]]],
        model: str = "",
        models: Sequence[str] = (),
    ) -> None:
        """``scaling`` is asked for so many plans. ``model`` is what clients call this one, among several ``models``."""
        self._router = router
        self._model = model
        self._models = models
        self._dispatcher = dispatcher
        self._status = Heard(status, _CONTROLLER_FRESH_S, time.monotonic)
        self._scaling = Heard(lambda: scaling(1), _SCALING_FRESH_S, time.monotonic)
        self._made_s = -_FRESH_S
        self._state = b""

    async def state(self) -> bytes:
        """As JSON."""
        status, scaling = await self._status.get(), await self._scaling.get()
        now_s = time.monotonic()
        if now_s - self._made_s >= _FRESH_S:
            made = console_state(self._router, self._dispatcher, status, scaling, time.time(), self._model, self._models)
            self._state = msgspec.json.encode(made)
            self._made_s = now_s
        return self._state


def console_routes(console: Console) -> APIRouter:
    """``/console`` for people, ``/v1/baton/console`` for it and ``baton top``."""
    routes = APIRouter(tags=["baton"])

    @routes.get("/v1/baton/console")
    async def console_data() -> Response:
        """What the console shows: pools, hand-offs of the last minute, newest requests and decisions, scaling. Of this router alone."""
        return Response(await console.state(), media_type="application/json", headers={"cache-control": "no-store"})

    for path, (media_type, content) in FILES.items():
        routes.add_api_route(path, _file(content, media_type), methods=["GET", "HEAD"], include_in_schema=False)
    routes.add_api_route(WITH_SLASH, _without_slash, methods=["GET", "HEAD"], include_in_schema=False)
    return routes


async def _without_slash(request: Request) -> Response:
    """By a relative address: it is right behind any proxy and any prefix."""
    asked = request.url.query
    return RedirectResponse(f"..{PAGE}" + (f"?{asked}" if asked else ""))


def _file(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(content, media_type=media_type, headers=dict(HEADERS))

    return answer
