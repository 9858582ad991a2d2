"""Baton's own routes and headers beside vLLM's."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.ids import RouterId
from core.metrics.words import Why
from router.colleagues import Colleagues, told
from router.console.routes import Console, console_routes
from router.decision_note import current_note, new_note
from router.dispatcher import Dispatcher
from router.gate import Gate, Overload
from router.http_trace import current_trace
from router.keys import KeyRing
from router.late_start import LateStart
from router.leaving import LeavingIsTold
from router.objectives import Promises
from router.served_paths import remove_unserved
from router.service import WantedService
from router.slow_readers import SlowReaders

Status = Callable[[], Awaitable[dict[str, Any]]]
"""Asks the controller."""
Targets = Callable[[], Awaitable[list[dict[str, Any]]]]
"""Asks it whom Prometheus is to scrape."""

Scaling = Callable[[int], Awaitable[dict[str, Any]]]
"""Asks it for so many of the autoscaler's plans."""


async def _no_scaling(last: int) -> dict[str, Any]:
    return {"enabled": False, "plans": []}


async def _no_targets() -> list[dict[str, Any]]:
    return []


def baton_routes(
    router: RouterId,
    dispatcher: Dispatcher,
    status: Status,
    targets: Targets = _no_targets,
    scaling: Scaling = _no_scaling,
    colleagues: Colleagues | None = None,
) -> APIRouter:
    """``/v1/baton/...``: what this router did and what it sees. Of one request, also what its ``colleagues`` know."""
    routes = APIRouter(prefix="/v1/baton", tags=["baton"])

    async def known(detail: str, request: str) -> dict[str, Any]:
        found = told(router, dispatcher.timelines, detail, request)
        if found is None and colleagues is not None:
            found = await colleagues.find(detail, request, targets)
        if found is None:
            who = "no router" if colleagues is None else "no router that answers"
            limit = dispatcher.timelines.limit
            raise HTTPException(404, f"{who} knows request {request!r}; each keeps the newest {limit}")
        return found

    @routes.get("/requests/{request_id}")
    async def request_timeline(request_id: str) -> dict[str, Any]:
        """The timelines of one request: which worker did what, when, and how many KV bytes moved. Several for ``n > 1``."""
        return await known("requests", request_id)

    @routes.get("/requests")
    async def newest_requests(limit: int = 20) -> dict[str, Any]:
        """The newest requests' timelines, newest first."""
        return {"router": router, "timelines": [t.as_dict() for t in dispatcher.timelines.newest(max(1, min(limit, 200)))]}

    @routes.get("/decisions/{request_id}")
    async def request_decisions(request_id: str) -> dict[str, Any]:
        """Why a request went where it went: the candidates, their predicted costs term by term, and what then really happened."""
        return await known("decisions", request_id)

    @routes.get("/status")
    async def cluster_status() -> dict[str, Any]:
        """What the controller knows: pools, workers, their states, ages, addresses and load."""
        try:
            return await status()
        except Exception as error:
            raise HTTPException(503, f"the controller does not answer: {type(error).__name__}; requests are served all the same") from None

    @routes.get("/targets")
    async def scrape_targets() -> list[dict[str, Any]]:
        """For Prometheus' `http_sd_configs`: every router and worker there is, the controller, and what Ray tells. docs/metrics.md."""
        try:
            return await targets()
        except Exception as error:  # Prometheus then keeps the list it has
            raise HTTPException(503, f"the controller does not answer: {type(error).__name__}") from None

    @routes.get("/scaling")
    async def newest_plans(last: int = 1) -> dict[str, Any]:
        """The autoscaler's newest plans, the newest first: what each was made from, what is to be done, and why. docs/scaling.md."""
        try:
            return await scaling(max(1, min(last, 200)))
        except Exception as error:
            raise HTTPException(503, f"the controller does not answer: {type(error).__name__}; requests are served all the same") from None

    @routes.get("/workers")
    async def workers() -> dict[str, Any]:
        """The workers this router can reach, their load, and what it has sent them that is not done."""
        view = dispatcher.view()
        return {
            "router": router,
            "requests": len(dispatcher),
            "outstanding_legs": dispatcher.outstanding_legs,
            "waiting_requests": len(dispatcher.queue),
            "waiting_tokens": dispatcher.queue.tokens,
            "workers": [
                {
                    "worker": name,
                    "role": str(seen.card.role),
                    "state": str(seen.card.state),
                    "epoch": seen.card.epoch,
                    "running": seen.load.running,
                    "waiting": seen.load.waiting,
                    "free_blocks": seen.load.free_blocks,
                    "num_blocks": seen.load.num_blocks,
                    "leased_blocks": seen.load.leased_blocks,
                    "stranded_blocks": seen.load.stranded_blocks,
                    "adapters": seen.load.adapters and list(seen.load.adapters.names),
                    "refused": seen.refused or None,
                    "outstanding_prefill_tokens": seen.outstanding_prefill_tokens,
                    "outstanding_decode_tokens": seen.outstanding_decode_tokens,
                }
                for name, seen in view.items()
            ],
        }

    return routes


class BatonHeaders:
    """ASGI middleware: every answer names its router and what to ask for its decisions by, and says in short where its request went and
    why; a 429 or a 503 says when to try again, if it does not yet."""

    def __init__(self, app: ASGIApp, router: RouterId, retry_after_s: Callable[[], float]) -> None:
        self._app = app
        self._router = router.encode()
        self._retry_after_s = retry_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        note = new_note()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = headers = [*message.get("headers", ()), (b"x-baton-router", self._router)]
                if note.text:
                    headers.append((b"x-baton-decision", note.text.encode()))
                if note.request:
                    headers.append((b"x-baton-request", note.request.encode("latin-1", "replace")))
                if message["status"] in {429, 503} and not any(name.lower() == b"retry-after" for name, _ in headers):
                    headers.append((b"retry-after", str(max(1, math.ceil(self._retry_after_s()))).encode()))
            await send(message)

        await self._app(scope, receive, send_with_headers)


MAX_BODY_BYTES = 32 * 1024 * 1024
_STALLED_S = 60.0


def install(
    app: FastAPI,
    router: RouterId,
    dispatcher: Dispatcher,
    status: Status,
    retry_after_s: float | Callable[[], float],
    *,
    keys: KeyRing | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    overload: Overload = lambda _: None,
    stalled_s: float = _STALLED_S,
    promises: Promises | None = None,
    targets: Targets = _no_targets,
    scaling: Scaling = _no_scaling,
    model: str = "",
    models: Sequence[str] = (),
    colleagues: Colleagues | None = None,
) -> ASGIApp:
    """vLLM's app with all that is Baton's. Wrapped from outside: vLLM's own set-up has closed the list of middlewares. ``model`` is what
    clients call the one it serves; ``models``, where there are others beside it, all of them.

    From the outside in: headers on every answer, also on refusals; the gate; readers that stall, which are cut as if they had
    left; statuses of streams that fail early; and next to the app, for nothing else knows how it takes it, leaving.
    """

    def wait_s() -> float:
        """What the text of a refusal says, so that its header says the same; else what is told to anybody."""
        note = current_note()
        if note is not None and note.retry_after_s is not None:
            return note.retry_after_s
        return retry_after_s() if callable(retry_after_s) else retry_after_s

    def refused(why: Why, service: WantedService | None) -> None:
        dispatcher.tally.refused(why, service)
        if (trace := current_trace()) is not None:
            trace.refused(why)

    remove_unserved(app)
    app.include_router(baton_routes(router, dispatcher, status, targets, scaling, colleagues))
    app.include_router(console_routes(Console(router, dispatcher, status, scaling, model, models)))
    inside = SlowReaders(LateStart(LeavingIsTold(app), wait_s), stalled_s)
    return BatonHeaders(Gate(inside, max_body_bytes, keys, overload, promises=promises, refused=refused), router, wait_s)
