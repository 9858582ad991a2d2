"""A simulated cluster behind a real router, and clients that keep it a little busy: what the console is looked at with."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from operator import eq
from typing import Any

import httpx
import msgspec
import uvicorn

from autoscaler.plan import Plan
from autoscaler.scaler import BatonScaler
from cluster.scaling_actions import RecentActions
from cluster.scaling_course import Course
from core.ids import RouterId
from core.worker import Role
from engine.sim_timing import PolynomialTime
from router.entrance import Entrance
from router.models import Models, ServedModel
from tests.support.eventually import assert_eventually
from tests.support.processes import free_port
from tests.support.router_server import MODEL, SIMULATED, RouterServer, router_server
from tests.support.scaling import limits, paper, policy, traffic

STEPS = PolynomialTime(0.015, 2.5e-4, 2e-8, 0.018, 4e-4, 1e-7)
"""Slow enough to be watched: a prompt of a thousand tokens takes 0.3 s, a token about 20 ms."""
PROMISED = {"x-baton-ttft-s": "2", "x-baton-tpot-s": "0.04"}

ENGINE: Mapping[str, Any] = {"timing": STEPS, "num_blocks": 512, "kv_bytes_per_token": 131_072, "link_gbps": 50.0, "link_answer_s": 10.0}


class Controller:
    """What stands in for it: what it says is a test's own."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self.calm()

    def calm(self) -> None:
        self.said = {"model": "demo", "wanted": {"prefill": 2, "decode": 2}, "workers": [], "failures": []}
        self.plans: list[Plan] | None = []

    def scale(self) -> None:
        """With all that there is to show of it: rising demand, actions, limits that are reached, warnings."""
        fleet = paper(BatonScaler(limits(most=2), policy()), 1, 1)
        self.plans = [fleet.tick(traffic(1.0 * (turn + 1))) for turn in range(24)]
        assert all(pool.forecast_tokens_per_s and pool.clamps for pool in self.plans[-1].pools)
        assert self.plans[-1].warnings

    async def status(self) -> dict[str, Any]:
        return self.said

    async def scaling(self, last: int) -> dict[str, Any]:
        if self.plans is None:
            raise TimeoutError
        asked, course = RecentActions(), Course()
        for plan in self.plans:
            asked.planned(plan)
            course.planned(plan)
        plans = [msgspec.to_builtins(plan) for plan in reversed(self.plans[-last:])]
        told = {"plans": plans, "actions": msgspec.to_builtins(asked.newest()), "course": msgspec.to_builtins(course.points)}
        return {"enabled": bool(self.plans), **told}


@contextlib.asynccontextmanager
async def console_server(
    prefill: int = 2, decode: int = 2, *, policy: str = "least_outstanding_tokens", **options: Any
) -> AsyncIterator[RouterServer]:
    """``prefill-0`` and so on. ``options`` are those of ``router_server``."""
    async with router_server(ENGINE, policy=policy, **options) as server:
        for role, count in ((Role.PREFILL, prefill), (Role.DECODE, decode)):
            for number in range(1, count):
                await server.cluster.add_worker(f"{role}-{number}", role, **{**SIMULATED, **ENGINE})
        server.cluster.tell()
        await assert_eventually(lambda: len(server.dispatcher.view()) == prefill + decode, 20.0, "all workers are reached")
        yield server


@contextlib.asynccontextmanager
async def console_of_models(names: Sequence[str]) -> AsyncIterator[tuple[str, list[RouterServer]]]:
    """One address for several models, each with workers of its own: two of each kind for the first, and one more for every further one."""
    async with contextlib.AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(console_server(2 + place, 2 + place, model=name, models=names))
            for place, name in enumerate(names)
        ]
        doors = {
            name: ServedModel(server.served, partial(eq, name), lambda why, service: None)
            for name, server in zip(names, servers, strict=True)
        }
        port = free_port()
        app = Models(doors, Entrance(1 << 20), RouterId("router-0"))
        door = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", access_log=False, lifespan="off"))
        serving = asyncio.create_task(door.serve())
        try:
            await assert_eventually(lambda: door.started, 20.0, "the door is open")
            yield f"http://127.0.0.1:{port}", servers
        finally:
            door.should_exit = True
            await serving


async def ask(server: RouterServer, prompt: list[int], tokens: int, **headers: str) -> httpx.Response:
    """One completion."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60.0) as client:
        asked = {"model": MODEL, "prompt": prompt, "max_tokens": tokens}
        return await client.post("/v1/completions", json=asked, headers=headers)


@contextlib.asynccontextmanager
async def clients(server: RouterServer, count: int, seed: int = 1) -> AsyncIterator[None]:
    """So many people, who ask, read and ask again until this is left."""
    draw = random.Random(seed)

    async def person(number: int) -> None:
        history = [draw.randrange(16, 4096) for _ in range(draw.randrange(40, 400))]
        while True:
            await ask(server, history, draw.choice([8, 24, 40, 80]), **PROMISED, **{"x-request-id": f"chat-{number}-{len(history)}"})
            history = [*history, *(draw.randrange(16, 4096) for _ in range(draw.randrange(20, 300)))]
            if len(history) > 1500:
                history = history[-100:]
            await asyncio.sleep(draw.uniform(0.1, 1.5))

    people = [asyncio.create_task(person(number)) for number in range(count)]
    try:
        yield
    finally:
        for one in people:
            one.cancel()
        await asyncio.gather(*people, return_exceptions=True)
