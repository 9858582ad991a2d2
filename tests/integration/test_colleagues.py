"""Routers that tell each other of requests: over their listeners, real sockets, without Ray."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from cluster.metrics_listener import MetricsListener
from cluster.signals.http import Http
from cluster.targets import scrape_targets
from core.ids import RequestId, RouterId
from router.colleagues import PROOF, Colleagues
from router.routes import baton_routes
from router.timeline import Timeline, TimelineBook
from tests.support.processes import free_port

SECRET = "of all routers"


async def _nothing() -> dict[str, Any]:
    return {}


class Router:
    """One with what it listens at, and its routes."""

    def __init__(self, name: str, secret: str | None, found: dict[RouterId, str], *requests: str) -> None:
        self.name = RouterId(name)
        book = TimelineBook()
        for request in requests:
            book.add(Timeline(RequestId(f"{request}-0"), f"{request}-0", 0.0, 0.0, 10, 5))
        self.colleagues = Colleagues(self.name, book, lambda: secret, Http(5.0))
        self.listener = MetricsListener(CollectorRegistry(), "127.0.0.1", self.colleagues.answer)

        async def targets() -> list[dict[str, Any]]:
            return scrape_targets("app", "127.0.0.1:1", found, {}, ["127.0.0.1:2"])

        app = FastAPI()
        dispatcher: Any = SimpleNamespace(timelines=book)
        app.include_router(baton_routes(self.name, dispatcher, _nothing, targets, colleagues=self.colleagues))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{name}")

    async def close(self) -> None:
        self.listener.close()
        await self.colleagues.close()
        await self.client.aclose()


@contextlib.asynccontextmanager
async def two(secret_of_b: str | None = SECRET) -> AsyncIterator[tuple[Router, Router, str]]:
    """A had ``cmpl-1``, B nothing; a third one is gone, and not forgotten yet. And the address of A."""
    found = {RouterId("gone"): f"127.0.0.1:{free_port()}"}
    a, b = Router("a", SECRET, found, "cmpl-1", "é! ?"), Router("b", secret_of_b, found)
    try:
        for router in (a, b):
            found[router.name] = await router.listener.open()
        yield a, b, found[a.name]
    finally:
        await a.close()
        await b.close()


async def test_any_router_tells_of_a_request() -> None:
    """Whichever is asked: the answer is that of the one which had it, and says which."""
    async with two() as (a, b, _):
        for path, parts in (("requests", "timelines"), ("decisions", "decisions")):
            of_a, of_b = [(await router.client.get(f"/v1/baton/{path}/cmpl-1")) for router in (a, b)]
            assert (of_a.status_code, of_b.status_code) == (200, 200), of_b.text
            assert of_a.json() == of_b.json()
            assert of_b.json()["router"] == "a"
            assert len(of_b.json()[parts]) == 1
            assert (await b.client.get(f"/v1/baton/{path}/%C3%A9! %3F")).json()["router"] == "a", "clients choose names"


async def test_what_nobody_knows() -> None:
    """404 from all of them; names are never paths."""
    async with two() as (a, b, _):
        for router in (a, b):
            for name in ("cmpl-2", "cmpl-1%3F", "cmpl-%C3%A9!"):
                assert (await router.client.get(f"/v1/baton/decisions/{name}")).status_code == 404


async def test_nobody_else_is_answered() -> None:
    """Without the routers' key; and a router that does not know the key yet asks nobody."""
    async with two(secret_of_b=None) as (_, b, address), httpx.AsyncClient(base_url=f"http://{address}") as client:
        assert (await b.client.get("/v1/baton/decisions/cmpl-1")).status_code == 404
        for proof in ({}, {PROOF: ""}, {PROOF: "\xe9"}, {PROOF: "0" * 64}):
            headers = [(name.encode(), value.encode("latin-1")) for name, value in proof.items()]
            assert (await client.get("/decisions/cmpl-1", headers=headers)).status_code == 404
    async with two(secret_of_b="of another cluster") as (_, b, _):
        assert (await b.client.get("/v1/baton/decisions/cmpl-1")).status_code == 404
