"""Two models in one router's process: vLLM's front half and server, dispatcher and links of each, simulated workers, one port. No Ray.

What is started is started once. On the way out nobody holds anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from operator import eq
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn

from core.application_config import application_of
from core.ids import RouterId
from core.worker import Role
from deploy.model import model_path
from router.controller_calls import ControllerCalls
from router.entrance import Entrance
from router.models import Models, ServedModel
from router.stack import Stack
from tests.support.cluster_process import simulated_args
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import MiniCluster
from tests.support.processes import free_port
from tests.support.router_server import SIMULATED

pytestmark = pytest.mark.integration

NAMES = ("quick", "slow")
ROUTER = RouterId("router-0")


@dataclass(frozen=True)
class Side:
    """One model's."""

    stack: Stack
    cluster: MiniCluster

    def handle(self) -> Any:
        """As much of a controller's handle as is called."""

        async def membership(known_version: int, router: RouterId, metrics_address: str) -> Any:
            return await self.cluster.directory.fetch(known_version)

        async def status() -> dict[str, Any]:
            return {"model": self.stack.settings.served_name}

        return SimpleNamespace(membership=SimpleNamespace(remote=membership), status=SimpleNamespace(remote=status))

    def has_nothing(self) -> bool:
        """Whether the router has no request of this model, and no leg of one."""
        return len(self.stack.dispatcher) == self.stack.dispatcher.outstanding_legs == 0

    async def workers_come(self, life: int) -> None:
        """Two, and the router reaches them."""
        for role in Role:
            await self.cluster.add_worker(f"{role}-0", role, epoch=life, **SIMULATED)
        self.cluster.tell()
        await assert_eventually(lambda: len(self.stack.dispatcher.view()) == 2, 60.0, "both workers are reached")

    async def workers_die(self) -> None:
        """In the middle of everything, and the controller has noticed."""
        for worker in self.cluster.alive:
            await worker.kill()
        self.cluster.tell()
        await assert_eventually(lambda: not self.stack.dispatcher.view(), 60.0, "nobody is there")


async def complete(client: httpx.AsyncClient, model: str, tokens: int) -> httpx.Response:
    return await client.post("/v1/completions", json={"model": model, "prompt": "Hand it over.", "max_tokens": tokens, "temperature": 0.0})


@pytest.fixture
async def sides() -> AsyncIterator[tuple[dict[str, Side], httpx.AsyncClient]]:
    one = simulated_args()
    shared = {name: one.pop(name) for name in ("router", "host")}
    shared["router"] |= {"worker_timeout_s": 10}
    served = application_of({"models": [one | {"served_model_name": name} for name in NAMES], **shared})
    sides = {config.served_name: Side(Stack(config, model_path(config), ROUTER, None), MiniCluster()) for config in served.models}
    doors: dict[str, ServedModel] = {}
    for name, side in sides.items():
        app = await side.stack.connect(ControllerCalls(side.handle(), ROUTER, ""), None)
        doors[name] = ServedModel(app, partial(eq, name), side.stack.refused)
        await side.workers_come(1)
    port = free_port()
    app = Models(doors, Entrance(1 << 20), ROUTER)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", access_log=False, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    try:
        await assert_eventually(lambda: server.started, 60.0, "the server listens")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120.0) as client:
            yield sides, client
        for side in sides.values():
            await assert_eventually(side.has_nothing, 30.0, "nobody has a request")
            await side.cluster.workers_free(30.0)
    finally:
        server.should_exit = True
        await serving
        for side in sides.values():
            await side.stack.close()
            for worker in side.cluster.workers.values():
                await worker.close()


async def test_two_models_side_by_side(sides: tuple[dict[str, Side], httpx.AsyncClient]) -> None:
    """Requests of both at once, each by its own model's workers. Then one loses all of its: 503 for that one alone, and what the other has
    under way goes on to its end; and it serves again when it has others."""
    models, client = sides
    answers = await asyncio.gather(*(complete(client, NAMES[n % 2], 50) for n in range(6)))
    assert [(answer.status_code, answer.json()["model"]) for answer in answers] == [(200, NAMES[n % 2]) for n in range(6)]
    assert all(answer.json()["usage"]["completion_tokens"] == 50 for answer in answers)
    assert [len(side.stack.dispatcher.timelines.newest(10)) for side in models.values()] == [3, 3]

    assert [card["id"] for card in (await client.get("/v1/models")).json()["data"]] == list(NAMES)
    assert (await client.get("/v1/baton/status")).json() == {"models": {name: {"model": name} for name in NAMES}}
    known = (await client.get(f"/v1/baton/requests/{answers[1].json()['id']}")).json()["timelines"]
    assert len(known) == 1
    assert (await complete(client, "other", 1)).status_code == 404

    stream = asyncio.create_task(complete(client, "slow", 1500))
    await assert_eventually(lambda: len(models["slow"].stack.dispatcher), 60.0, "it is under way")
    await models["quick"].workers_die()
    assert (await complete(client, "quick", 5)).status_code == 503
    assert (await complete(client, "slow", 5)).status_code == 200
    assert (await stream).json()["usage"]["completion_tokens"] == 1500
    await models["quick"].workers_come(2)
    assert (await complete(client, "quick", 5)).status_code == 200
