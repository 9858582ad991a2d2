"""Every kind of engine against the one contract, and what only the simulated one can be made to do."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from core.errors import EngineFailedError
from core.ids import LegId
from engine.sim_config import SimulatedEngineConfig
from engine.sim_link import LinkRate, LocalLink, LocalNetwork
from engine.sim_timing import ConstantTime
from engine.simulated import SimulatedEngine
from tests.contract.engine_contract import EngineContract, MakeEngine, Running, ask, behind, check_empty, eventually, prompt_of

MakeSimulated = Callable[..., Awaitable[Running]]


class Turns:
    """Time that passes by turns of the event loop, a millisecond each: where the machine stands still, no lease runs out."""

    def __init__(self) -> None:
        self._turns = 0
        self.passing = asyncio.create_task(self._pass())

    def now(self) -> float:
        return self._turns / 1000

    async def sleep(self, duration_s: float) -> None:
        for _ in range(math.ceil(duration_s * 1000)):
            await asyncio.sleep(0)

    async def _pass(self) -> None:
        while True:
            await asyncio.sleep(0)
            self._turns += 1


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    """Time that passes for as long as the test lasts."""
    turns = Turns()
    yield turns
    turns.passing.cancel()


@pytest.fixture
async def make_simulated() -> AsyncIterator[MakeSimulated]:
    """Starts simulated engines; on the way out every one still alive must be empty."""
    started: list[Running] = []

    async def make(link: Callable[[SimulatedEngineConfig], LocalLink] | None = None, turns: Turns | None = None, **changes: Any) -> Running:
        settings = {"num_blocks": 256, "vocab_size": 300, "timing": ConstantTime(0.001), "link_answer_s": 0.2, "wake_s": 0.0, **changes}
        config = SimulatedEngineConfig(**settings)
        time: dict[str, Any] = {"clock": turns.now, "sleep": turns.sleep} if turns is not None else {}
        engine = SimulatedEngine(config, link=link(config) if link is not None else None, **time)
        started.append(Running(engine, await engine.start(lambda phase: None)))
        return started[-1]

    yield make
    for running in started:
        if not running.reading.done():
            await check_empty(running)
        running.reading.cancel()
        await running.engine.shutdown()
    await asyncio.gather(*(running.reading for running in started), return_exceptions=True)


@pytest.fixture(params=["simulated"])
def make_engine(request: pytest.FixtureRequest) -> MakeEngine:
    """Starts engines of the kind the test is run for."""
    make: MakeEngine = request.getfixturevalue(f"make_{request.param}")
    return make


class TestEngine(EngineContract):
    """The contract."""


async def stop(running: Running) -> None:
    """Ends an engine as a lost process would: without a word to anybody."""
    await running.engine.shutdown()
    await asyncio.wait([running.reading])


async def test_a_lease_nobody_reads_expires(make_simulated: MakeSimulated) -> None:
    """Its blocks are freed by time alone, on an idle engine too."""
    engine = await make_simulated(lease_s=0.05)
    await engine.prefill("a:0", prompt_of(20, 1))
    await eventually(lambda: engine.expired() == ["a:0"], "expired")
    assert engine.released() == ["a:0"]
    await check_empty(engine)


async def test_abort_frees_a_kept_prefill(make_simulated: MakeSimulated) -> None:
    """A leg whose end its owner has not seen yet is aborted, not released."""
    engine = await make_simulated()
    await engine.prefill("a:0", prompt_of(20, 1))
    await engine.engine.abort([LegId("a:0")])
    assert engine.empty()


async def test_abort_while_pulling_frees_both_sides(make_simulated: MakeSimulated) -> None:
    """A long transfer is not waited for."""
    keeper, reader = await make_simulated(), await make_simulated(link_latency_s=30.0)
    prompt = prompt_of(40, 1)
    token, handle = await keeper.prefill("a:0", prompt)
    await reader.engine.add(ask("a:1", prompt, 6, behind([token], handle)))
    await eventually(lambda: not reader.empty() and reader.engine.stats.free_blocks < reader.facts.num_blocks, "pulling")
    assert keeper.engine.stats.free_blocks < keeper.facts.num_blocks
    await reader.engine.abort([LegId("a:1")])
    assert reader.empty()
    await check_empty(keeper)
    assert keeper.expired() == []


def links_in(turns: Turns, latency_s: float = 0.0) -> Callable[[SimulatedEngineConfig], LocalLink]:
    """Links of one process, that live in the same time as its engines."""
    network = LocalNetwork()
    return lambda config: LocalLink(network, LinkRate(0, latency_s), config.lease_s, turns.now, turns.sleep)


async def test_a_transfer_longer_than_the_lease_keeps_it_alive(make_simulated: MakeSimulated, turns: Turns) -> None:
    """A reader that is still reading renews."""
    link = links_in(turns, latency_s=12.0)
    keeper = await make_simulated(link, turns, lease_s=3.0)
    reader = await make_simulated(link, turns, lease_s=3.0)
    prompt = prompt_of(40, 1)
    token, handle = await keeper.prefill("a:0", prompt)
    await reader.run(ask("a:1", prompt, 6, behind([token], handle)))
    assert reader.engine.stats.computed_prompt_tokens == 1
    assert (keeper.released(), keeper.expired()) == (["a:0"], [])


async def test_a_reader_in_the_queue_keeps_the_lease_alive(make_simulated: MakeSimulated, turns: Turns) -> None:
    """Waiting for a place does not cost the kept prompt."""
    link = links_in(turns)
    keeper = await make_simulated(link, turns, lease_s=3.0)
    reader = await make_simulated(link, turns, lease_s=3.0, max_num_seqs=1, timing=ConstantTime(0.3))
    await reader.engine.add(ask("other:0", prompt_of(9, 2), 40))
    prompt = prompt_of(40, 1)
    token, handle = await keeper.prefill("a:0", prompt)
    await reader.run(ask("a:1", prompt, 6, behind([token], handle)))
    assert reader.engine.stats.computed_prompt_tokens == 9 + 1
    assert keeper.expired() == []


@pytest.mark.parametrize("gone", ["engine", "lease", "life"])
async def test_a_pull_that_fails_is_computed(make_simulated: MakeSimulated, gone: str) -> None:
    """Keeper dead, lease over, or another life of the engine at that address: the tokens are right and counted as computed."""
    keeper, reader, alone = await make_simulated(), await make_simulated(), await make_simulated()
    prompt = prompt_of(40, 1)
    token, handle = await keeper.prefill("a:0", prompt)
    if gone == "life":
        handle = {**handle, "remote_engine_id": "the life before"}
    else:
        await keeper.engine.release([LegId("a:0")])
    if gone == "engine":
        await stop(keeper)
    rest = await reader.run(ask("a:1", prompt, 6, behind([token], handle)))
    assert [token, *rest] == await alone.run(ask("b:0", prompt, 6))
    stats = reader.outputs["a:1"][0].prefill_stats
    assert stats is not None
    assert (stats.num_external_cached_tokens, stats.num_computed_tokens) == (0, 41)
    assert reader.engine.stats.received_bytes == 0
    if gone == "life":
        await keeper.engine.release([LegId("a:0")])


async def test_a_rejected_request_lets_the_keeper_free(make_simulated: MakeSimulated) -> None:
    """``abort_immediately`` computes nothing and says nothing."""
    keeper, reader = await make_simulated(), await make_simulated()
    prompt = prompt_of(40, 1)
    token, handle = await keeper.prefill("a:0", prompt)
    request = ask("a:1", prompt, 6, behind([token], handle))
    request.abort_immediately = True
    await reader.engine.add(request)
    await eventually(lambda: keeper.released() == ["a:0"], "released")
    assert reader.outputs == {}


async def test_engines_of_one_process_need_no_sockets(make_simulated: MakeSimulated) -> None:
    """The in-process link hands over as the ZMQ one does."""
    network, clock = LocalNetwork(), asyncio.get_running_loop().time

    def link(config: SimulatedEngineConfig) -> LocalLink:
        return LocalLink(network, LinkRate(0, 0), config.lease_s, clock, asyncio.sleep)

    keeper, reader = await make_simulated(link), await make_simulated(link)
    prompt = prompt_of(40, 1)
    token, handle = await keeper.prefill("a:0", prompt)
    await reader.run(ask("a:1", prompt, 6, behind([token], handle)))
    assert reader.engine.stats.computed_prompt_tokens == 1
    await eventually(lambda: keeper.released() == ["a:0"], "released")


async def test_an_instant_engine_leaves_others_their_turn(make_simulated: MakeSimulated) -> None:
    """Steps without duration neither block the loop while there is work nor spin while there is none."""
    engine = await make_simulated(timing=ConstantTime(0))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert len(await engine.run(ask("a:0", prompt_of(9, 1), 500))) == 500
    counting.cancel()
    assert turns > 400


async def test_a_request_it_cannot_do_ends_with_an_error(make_simulated: MakeSimulated) -> None:
    """Embeddings, a prompt that is too long, and a handle without an address."""
    engine = await make_simulated()
    embeddings = ask("a:0", [1], 5)
    embeddings.prompt_token_ids = None
    assert await engine.run(embeddings) == []
    assert await engine.run(ask("b:0", prompt_of(4097, 1), 5)) == []
    assert await engine.run(ask("c:0", [1], 5, {"do_remote_prefill": True})) == []
    assert [str(engine.outputs[leg][-1].finish_reason) for leg in ("a:0", "b:0", "c:0")] == ["error"] * 3


async def test_shutdown_ends_whoever_waits(make_simulated: MakeSimulated) -> None:
    """A reader of a stopped engine is told, and a second shutdown does nothing."""
    engine = await make_simulated()
    await stop(engine)
    await engine.engine.shutdown()
    assert isinstance(engine.reading.exception(), EngineFailedError)
    with pytest.raises(EngineFailedError, match="shut down"):
        await engine.engine.kv_events()
