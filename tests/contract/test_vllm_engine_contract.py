"""The real engine against the contract that the simulated one obeys: one pair of engines for the whole module."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from vllm.distributed.kv_events import AllBlocksCleared, KVEventBatch

from core.worker import EngineFacts
from deploy.demo_model import ensure_demo_model
from engine.base import EngineStats
from engine.vllm_engine import VllmEngine
from kv_transfer.backend import TransferSettings, transfer_config
from tests.contract.continuation import Continuation
from tests.contract.engine_contract import LIMIT_S, EngineContract, MakeEngine, Running, ask, check_empty, prompt_of
from tests.support.eventually import assert_eventually
from tests.support.otlp_receiver import Collector, over_grpc

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

Started = tuple[VllmEngine, EngineFacts]


@pytest.fixture(scope="module")
def run_dir() -> Iterator[Path]:
    """Where engines keep their sockets: short, as a socket's path ends after 107 characters. Empty when they have ended."""
    path = Path(tempfile.mkdtemp(prefix="c-", dir="/tmp"))
    yield path
    left = list(path.iterdir())
    shutil.rmtree(path)
    assert left == [], "left behind"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with over_grpc() as collector:
        yield collector


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(run_dir: Path, collector: Collector) -> AsyncIterator[list[Started]]:
    """Two engines with the demo model that can pull from each other and tell a collector, for as long as the module lasts."""
    environment = dict(os.environ)  # engines are told much by it
    # The lease outlasts the module: nothing is freed by waiting.
    transfer = transfer_config("nixl", TransferSettings(lease_s=600, buffer_device="cpu", progress_thread_rest_us=100))
    tracing = {"otlp_traces_endpoint": collector.endpoint}
    arguments = {"model": str(ensure_demo_model()), "max_model_len": 4096, "dtype": "float32", **tracing}
    started: list[Started] = []
    try:
        for _ in range(2):
            engine = VllmEngine(arguments, transfer, "127.0.0.1", run_dir)
            started.append((engine, await engine.start(lambda phase: None)))
        yield started
    finally:
        for engine, _ in started:
            await engine.shutdown()
        os.environ.clear()
        os.environ.update(environment)


@pytest_asyncio.fixture(loop_scope="module")
async def make_engine(pair: list[Started]) -> AsyncIterator[MakeEngine]:
    """Gives out the engines in turn, each as if it were new. On the way out both must be empty."""
    fresh = [await as_new(engine, facts) for engine, facts in pair]
    turns = itertools.cycle(fresh)

    async def make() -> Running:
        return next(turns)

    yield make
    for running in fresh:
        await check_empty(running)
        running.reading.cancel()
    await asyncio.gather(*(running.reading for running in fresh), return_exceptions=True)


async def as_new(engine: VllmEngine, facts: EngineFacts) -> Running:
    """An engine without a cached block, an unread event, or a statistic of what it did before."""
    running = Running(engine, facts)
    assert await engine.utility("reset_prefix_cache") is True
    await running.run(ask("reset:0", [1], 1))  # the engine tells of the reset in its next step
    async with asyncio.timeout(LIMIT_S):
        while not await told_of_reset(engine):
            pass
    await check_empty(running)
    engine._stats = EngineStats(free_blocks=facts.num_blocks, num_blocks=facts.num_blocks)
    running.outputs.clear()
    running.reports.clear()
    return running


async def told_of_reset(engine: VllmEngine) -> bool:
    """Whether the next event message is the last of the life before."""
    message = await engine.kv_events()
    return any(isinstance(event, AllBlocksCleared) for event in msgspec.msgpack.decode(message.payload, type=KVEventBatch).events)


class TestVllmEngine(EngineContract):
    """The contract, and what only vLLM does."""

    async def test_it_is_traced(self, make_engine: MakeEngine, collector: Collector) -> None:
        """With vLLM's own ``otlp_traces_endpoint``, its process tells how it started; and it has a request's trace, for it gives that
        back with every output: workers take it off."""
        engine = await make_engine()
        headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        await engine.run(msgspec.structs.replace(ask("traced:0", prompt_of(20, 1), 3), trace_headers=headers))
        assert [output.trace_headers for output in engine.outputs["traced:0"]] == [headers] * 3
        await assert_eventually(lambda: collector.spans, 20.0, "spans of the start have come")
        assert {resource["vllm.instrumenting_module_name"] for resource in collector.resources} == {"vllm.engine_core"}


class TestContinuation(Continuation):
    """Answers cut on one engine and gone on with on the other."""
