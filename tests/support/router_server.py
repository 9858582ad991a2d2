"""A real router on a real port, with simulated workers in the same process: vLLM's whole server and Baton's data plane, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from cluster.span_export import SpanExport
from core.ids import RouterId
from core.lora_config import LoraConfig
from core.trace import Export
from core.worker import WorkerState
from deploy.demo_model import ensure_demo_model
from engine.adapters import AdapterCatalogue
from engine.sim_timing import ConstantTime
from router.balancer.registry import make_balancer
from router.cluster_client import ClusterClient
from router.dispatcher import Dispatcher
from router.foresight import Foresight
from router.front_half import RouterLLM, build_server, connect_server, front_half_config
from router.http_trace import Traced
from router.limits import Limits
from router.members import Members
from router.routes import Status, install
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import BEAT_S, SILENCE_S, MiniCluster
from tests.support.processes import free_port

MODEL = "demo"
MAX_MODEL_LEN = 2048
SIMULATED: Mapping[str, Any] = {
    "vocab_size": 4096,
    "num_blocks": 4096,
    "max_model_len": MAX_MODEL_LEN,
    "special_token_ids": frozenset(range(16)),
    "timing": ConstantTime(0.0002),
}
SERVER_ARGS: Mapping[str, Any] = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}


@dataclass(frozen=True)
class RouterServer:
    """One router, two workers, and a place to look at what they hold."""

    url: str
    app: FastAPI
    served: ASGIApp
    """With all that is Baton's around it."""
    dispatcher: Dispatcher
    cluster: MiniCluster
    llm: RouterLLM

    def held(self) -> list[str]:
        """What is held for anybody, in words; empty when all is free."""
        held = [f"{len(self.dispatcher)} requests"] if len(self.dispatcher) else []
        held += [f"{self.dispatcher.outstanding_legs} legs"] if self.dispatcher.outstanding_legs else []
        states = len(self.llm.output_processor.request_states)
        held += [f"{states} requests in vLLM's front half"] if states else []
        held += [f"{w.name}: {w.engine.stats}, {w.leases.blocks} leased" for w in self.cluster.alive if not w.is_free() or w.leases.blocks]
        return held

    async def nothing_left(self, limit_s: float = 15.0) -> None:
        """No request, leg, block or lease is left. Fails with what is."""
        with contextlib.suppress(AssertionError):
            await assert_eventually(lambda: not self.held(), limit_s, "nothing is held")
        assert self.held() == []


@contextlib.asynccontextmanager
async def router_server(
    simulated: Mapping[str, Any] | None = None,
    *,
    policy: str = "round_robin",
    limits: Limits | None = None,
    status: Status | None = None,
    export: Export | None = None,
    spans: Callable[[str], SpanExport | None] = lambda worker: None,
    lora: LoraConfig | None = None,
    **installed: Any,
) -> AsyncIterator[RouterServer]:
    """Serves until left. ``status`` stands in for the controller; ``export`` is where spans of the router go, ``spans`` what workers send
    theirs with; ``installed`` are keyword arguments of ``install``, e.g. ``max_body_bytes``."""
    model = str(ensure_demo_model())
    cluster = MiniCluster()
    cluster.spans, cluster.lora = spans, lora
    await cluster.start(1, 1, 0, **{**SIMULATED, **(simulated or {})})
    client = ClusterClient()
    foresight = Foresight(MODEL)
    balancer = make_balancer(policy, random.Random(0), foresight.predictor)
    dispatcher = Dispatcher(balancer, client.deliver, time.monotonic, limits=limits, foresight=foresight)
    members = Members(RouterId("router-0"), dispatcher, cluster.directory.fetch, BEAT_S, SILENCE_S)
    client.connect(dispatcher, members)
    args = lora.engine_args if lora is not None else {}
    config = front_half_config(model, MODEL, {"max_model_len": MAX_MODEL_LEN, "dtype": "float32", **args})
    llm = RouterLLM(config, client)
    app = build_server(model, MODEL, config, SERVER_ARGS)
    await connect_server(app, llm, AdapterCatalogue(lora, MODEL) if lora is not None else None)

    async def nothing() -> dict[str, Any]:
        return {}

    served = install(app, RouterId("router-0"), dispatcher, status or nothing, 5.0, **installed)
    if export is not None:
        served = Traced(served, export, 1.0)
    port = free_port()
    # As Ray Serve's replicas run it: uvicorn with httptools, and no access log.
    server = uvicorn.Server(uvicorn.Config(served, host="127.0.0.1", port=port, log_level="error", access_log=False, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    try:
        await assert_eventually(lambda: server.started, 20.0, "the server listens")
        await assert_eventually(lambda: len(dispatcher.view()) == 2, 20.0, "both workers are reached")
        assert {seen.card.state for seen in dispatcher.view().values()} == {WorkerState.READY}
        yield RouterServer(f"http://127.0.0.1:{port}", app, served, dispatcher, cluster, llm)
    finally:
        server.should_exit = True
        await serving
        await members.close()
        llm.shutdown()
        for worker in cluster.workers.values():
            await worker.close()


@contextlib.contextmanager
def open_client(server: RouterServer, **options: Any) -> Iterator[httpx.AsyncClient]:
    """A client of the server that waits no longer than a test does."""
    yield httpx.AsyncClient(base_url=server.url, timeout=30.0, **options)
