"""Leases on real engines: no reader uses blocks that were reused, whatever happens to the engine that kept them.

One reader, and one keeper after another: it is stopped, killed and started again on the same port. UCX is kept to TCP, as
between two hosts: on one host it copies from a stopped process as if nothing were wrong.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from core.errors import EngineFailedError
from core.ids import LegId
from deploy.demo_model import ensure_demo_model
from engine import vllm_engine
from engine.vllm_engine import VllmEngine
from kv_transfer.backend import TransferSettings, transfer_config
from kv_transfer.lease_words import LEASE_KEY
from tests.contract.engine_contract import Running, ask, check_empty, eventually, prompt_of

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

LEASE_S = 2
PULL_TIMEOUT_S = 3.0
BLOCKS = 40
"""So few that a prompt or two use every one of them."""


class Lab:
    """A reader and a keeper, and the process of the keeper's engine."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.keeper: Running
        self.reader: Running
        self.keeper_process: psutil.Process

    async def start(self) -> Running:
        """A started engine with the demo model."""
        options = {"pull_timeout_s": PULL_TIMEOUT_S}
        transfer = transfer_config("nixl", TransferSettings(LEASE_S, "cpu", progress_thread_rest_us=100, options=options))
        arguments = {"model": str(ensure_demo_model()), "max_model_len": 4096, "dtype": "float32", "num_gpu_blocks_override": BLOCKS}
        engine = VllmEngine(arguments, transfer, "127.0.0.1", self.run_dir)
        return Running(engine, await engine.start(lambda phase: None))

    async def start_keeper(self) -> None:
        before = set(psutil.Process().children(recursive=True))
        self.keeper = await self.start()
        [self.keeper_process] = [
            process for process in set(psutil.Process().children(recursive=True)) - before if "EngineCore" in process.name()
        ]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The keeper's engine neither answers nor fails."""
        self.keeper_process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.keeper_process.send_signal(signal.SIGCONT)

    async def reuse_all_blocks(self) -> None:
        """Other prompts on the keeper, until no block is what it was."""
        size = self.keeper.facts.block_size_tokens
        tokens = min(4000, (BLOCKS - 2) * size)
        for turn in range(1 + BLOCKS * size // tokens):
            await self.keeper.run(ask(f"reuse-{time.monotonic_ns()}:0", prompt_of(tokens, 100 + turn), 1))

    def is_reading(self) -> bool:
        """Whether the reader holds blocks for something that does not run yet."""
        stats = self.reader.engine.stats
        return stats.waiting > 0 and stats.free_blocks < self.reader.facts.num_blocks


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    environment = dict(os.environ)
    os.environ["UCX_TLS"] = "tcp"
    run_dir = Path(tempfile.mkdtemp(prefix="l-", dir="/tmp"))
    lab = Lab(run_dir)
    try:
        lab.reader = await lab.start()
        await lab.start_keeper()
        yield lab
        await check_empty(lab.reader)
        await check_empty(lab.keeper)
    finally:
        for running in (lab.reader, lab.keeper):
            running.reading.cancel()
            await asyncio.gather(running.reading, return_exceptions=True)
            await running.engine.shutdown()
        shutil.rmtree(run_dir)
        os.environ.clear()
        os.environ.update(environment)


@pytest_asyncio.fixture(loop_scope="module")
async def case(lab: Lab, request: pytest.FixtureRequest) -> tuple[list[int], list[int], dict[str, Any]]:
    """A prompt of three blocks and a bit, all of whose next tokens are known, and the handle of its kept KV."""
    seed = zlib.crc32(request.node.name.encode()) % 90
    prompt = prompt_of(3 * lab.keeper.facts.block_size_tokens + 5, seed)
    expected = await lab.keeper.run(ask(f"{request.node.name}-alone:0", prompt, 6))
    token, handle = await lab.keeper.prefill(f"{request.node.name}:0", prompt)
    assert token == expected[0]
    return prompt, expected, handle


async def decode(lab: Lab, leg: str, prompt: list[int], expected: list[int], handle: dict[str, Any]) -> int:
    """Runs a decode leg on the reader, which must say the expected tokens; how many of the prompt's tokens were pulled."""
    rest = await lab.reader.run(ask(leg, [*prompt, expected[0]], len(expected) - 1, handle))
    assert rest == expected[1:]
    stats = lab.reader.outputs[leg][0].prefill_stats
    assert stats is not None
    return int(stats.num_external_cached_tokens)


async def test_a_reader_in_time_pulls(lab: Lab, case: Any) -> None:
    """The word is there: the blocks are used, and free on the keeper at once."""
    prompt, expected, handle = case
    assert await decode(lab, "in-time:1", prompt, expected, handle) == len(prompt)
    started_s = time.monotonic()
    await check_empty(lab.keeper)
    assert time.monotonic() - started_s < 0.5
    assert lab.keeper.expired() == []


async def test_a_late_reader_never_uses_reused_blocks(lab: Lab, case: Any) -> None:
    """The lease was ended and its blocks hold other prompts: the pull fails and the tokens are right."""
    prompt, expected, handle = case
    await lab.keeper.engine.release([LegId(handle["remote_request_id"])])
    await check_empty(lab.keeper)
    await lab.reuse_all_blocks()
    assert await decode(lab, "late:1", prompt, expected, handle) == 0


async def test_a_handle_without_a_lease_is_not_pulled(lab: Lab, case: Any) -> None:
    """What cannot be checked is computed, and the keeper need not keep it."""
    prompt, expected, handle = case
    bare = {name: value for name, value in handle.items() if name != LEASE_KEY}
    assert await decode(lab, "bare:1", prompt, expected, bare) == 0
    await check_empty(lab.keeper)


async def test_an_idle_keeper_frees_what_nobody_reads(lab: Lab, case: Any) -> None:
    """By time alone, and not before."""
    _, _, handle = case
    started_s = time.monotonic()
    assert lab.keeper.engine.stats.free_blocks < lab.keeper.facts.num_blocks
    await eventually(lambda: lab.keeper.expired() == [handle["remote_request_id"]], "expired", LEASE_S + 1.0)
    assert time.monotonic() - started_s > LEASE_S - 0.5
    await check_empty(lab.keeper)
    lab.keeper.reports.clear()


@pytest.mark.parametrize("running", [True, False])
async def test_an_aborted_prefill_frees_at_once(lab: Lab, running: bool) -> None:
    """Abort and release together, as a worker does them, whether or not the leg has ended."""
    leg = LegId(f"aborted-{running}:0")
    prompt = prompt_of(4000, 5 + running)
    if running:
        await lab.keeper.engine.add(ask(leg, prompt, 1, {"do_remote_decode": True, "do_remote_prefill": False}))
    else:
        await lab.keeper.prefill(leg, prompt)
    await lab.keeper.engine.abort([leg])
    await lab.keeper.engine.release([leg])
    started_s = time.monotonic()
    await check_empty(lab.keeper)
    assert time.monotonic() - started_s < LEASE_S / 2
    assert lab.keeper.expired() == []


async def test_a_pull_that_hangs_is_given_up_in_other_blocks(lab: Lab, case: Any) -> None:
    """The request goes on; what the pull may still write to is not free until it has ended."""
    prompt, expected, handle = case
    with lab.stopped():
        started_s = time.monotonic()
        size = lab.reader.facts.block_size_tokens
        assert await decode(lab, "hanging:1", prompt, expected, handle) == 0
        assert PULL_TIMEOUT_S < time.monotonic() - started_s < PULL_TIMEOUT_S + 2
        await eventually(lambda: lab.reader.engine.stats.running == 0, "the request ended")
        assert lab.reader.engine.stats.free_blocks == lab.reader.facts.num_blocks - -(-len(prompt) // size)
    await check_empty(lab.reader)
    await check_empty(lab.keeper)


async def test_a_decode_aborted_during_its_pull(lab: Lab, case: Any) -> None:
    """Its blocks are free when nothing is written to them any more, on both sides."""
    prompt, expected, handle = case
    with lab.stopped():
        await lab.reader.engine.add(ask("gone:1", [*prompt, expected[0]], 5, handle))
        await eventually(lab.is_reading, "reading")
        await lab.reader.engine.abort([LegId("gone:1")])
        await eventually(lambda: lab.reader.engine.stats.waiting == 0, "aborted")
        assert lab.reader.engine.stats.free_blocks < lab.reader.facts.num_blocks
    await check_empty(lab.reader)
    await check_empty(lab.keeper)


async def test_a_keeper_that_dies_during_a_pull(lab: Lab, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is computed here within a second; the next life on the same port is neither mistaken for the old nor shunned."""
    prompt, expected, handle = case
    lab.keeper_process.send_signal(signal.SIGSTOP)
    leg = "orphan:1"
    await lab.reader.engine.add(ask(leg, [*prompt, expected[0]], len(expected) - 1, handle))
    await eventually(lab.is_reading, "reading")
    killed_s = time.monotonic()
    lab.keeper_process.kill()
    await eventually(lambda: lab.reader.finished(leg), "finished")
    assert time.monotonic() - killed_s < 1.0
    assert lab.reader.tokens(leg) == expected[1:]
    await check_empty(lab.reader)
    with pytest.raises(EngineFailedError):
        await lab.keeper.reading
    await lab.keeper.engine.shutdown()

    monkeypatch.setattr(vllm_engine, "_free_port", lambda host: handle["remote_port"])
    await lab.start_keeper()
    await lab.reader.engine.utility("reset_prefix_cache")
    assert await decode(lab, "old-life:1", prompt, expected, handle) == 0
    token, new = await lab.keeper.prefill("new-life:0", prompt)
    assert (token, new["remote_port"]) == (expected[0], handle["remote_port"])
    assert new["remote_engine_id"] != handle["remote_engine_id"]
    await lab.reader.engine.utility("reset_prefix_cache")
    assert await decode(lab, "new-life:1", prompt, expected, new) == len(prompt)
    # The old life's handle with the new one's name, as if both were one: only the lease word tells them apart.
    await lab.reader.engine.utility("reset_prefix_cache")
    mistaken = {**new, LEASE_KEY: handle[LEASE_KEY]}
    assert await decode(lab, "mistaken:1", prompt, expected, mistaken) == 0
