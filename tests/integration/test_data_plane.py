"""The data plane as a whole: two prefill and two decode workers on real sockets, and what clients see that stay, and that leave.

On the way out of every test nothing may be left: no request, no leg, no block, no lease, no task.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from vllm.v1.engine import EngineCoreOutput, FinishReason

from core.errors import EngineFailedError
from engine.sim_config import SimulatedEngineConfig
from engine.sim_timing import ConstantTime
from engine.simulated import SimulatedEngine
from tests.contract.engine_contract import Running, ask, prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import MiniCluster
from tests.support.sampling import BOTH, COUNTS, HELD, expected

BLOCK = 16


async def one_engine_alone(prompt: list[int], max_tokens: int) -> list[int]:
    engine = SimulatedEngine(SimulatedEngineConfig(num_blocks=256, vocab_size=300, timing=ConstantTime(0.0)))
    running = Running(engine, await engine.start(lambda phase: None))
    tokens = await running.run(ask("alone", prompt, max_tokens))
    await engine.shutdown()
    with pytest.raises(EngineFailedError):
        await running.reading
    return tokens


# -- when all goes well ------------------------------------------------------------------------------------------------------


@BOTH
async def test_two_workers_give_the_tokens_of_one(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """Around block boundaries, whichever worker samples the first token; the client is told one end, at the end."""
    await cluster.start()
    lengths = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 5 * BLOCK]
    for length in lengths:
        cluster.router.send(f"r{length}", prompt_of(length, length % 13), 6, **sampling)
    await cluster.router.finished(*(f"r{length}" for length in lengths))
    for length in lengths:
        prompt = prompt_of(length, length % 13)
        assert cluster.router.tokens(f"r{length}") == await one_engine_alone(prompt, 6) == expected(prompt, 6)
        assert cluster.router.ends(f"r{length}") == [FinishReason.LENGTH]
        assert cluster.router.timeline(f"r{length}").outcome == "finished"


@BOTH
@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
async def test_decode_works_on_the_pulled_kv(cluster: MiniCluster, sampling: dict[str, Any], length: int) -> None:
    """It computes the one token in front of the next; the prompt was computed once, by prefill, and its bytes have moved."""
    await cluster.start(prefill=1, decode=1)
    cluster.router.send("a", prompt_of(length, 1), 4, **sampling)
    await cluster.router.finished("a")
    prefill, decode = cluster.workers["prefill-0"].engine.stats, cluster.workers["decode-0"].engine.stats
    assert prefill.computed_prompt_tokens == length
    assert decode.computed_prompt_tokens == 1
    assert decode.received_bytes > 0
    timeline = cluster.router.timeline("a")
    assert (timeline.transferred_tokens, timeline.was_transferred) == (length, True)
    assert timeline.transfer_bytes == decode.received_bytes


async def test_one_output_token_is_one_leg(cluster: MiniCluster) -> None:
    """There is nothing to hand over: no second worker is asked, no byte moves."""
    await cluster.start()
    cluster.router.send("a", prompt_of(40, 1), 1)
    await cluster.router.finished("a")
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 1)
    worked = [worker.name for worker in cluster.alive if worker.engine.stats.computed_prompt_tokens]
    timeline = cluster.router.timeline("a")
    assert worked == [timeline.prefill_worker] == [timeline.decode_worker]
    assert timeline.was_transferred is None
    assert sum(worker.engine.stats.received_bytes for worker in cluster.alive) == 0


@BOTH
async def test_a_stop_token_at_the_first_place_ends_the_request(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """The client gets the token and the reason, and no KV is kept for a decode that will not be."""
    await cluster.start()
    prompt = prompt_of(20, 1)
    stop = expected(prompt, 1)[0]
    cluster.router.send("a", prompt, 8, stop_token_ids=[stop], **sampling)
    await cluster.router.finished("a")
    assert cluster.router.tokens("a") == [stop]
    [last] = cluster.router.outputs["a"]
    assert (last.finish_reason, last.stop_reason) == (FinishReason.STOP, stop)


@BOTH
async def test_clients_see_no_trace_of_the_split(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """Prompt statistics come once, with the first token, and are prefill's; no output carries a handle or another id."""
    await cluster.start(prefill=1, decode=1)
    cluster.router.send("a", prompt_of(20, 1), 4, logprobs=1, **sampling)
    await cluster.router.finished("a")
    outputs = cluster.router.outputs["a"]
    stats = outputs[0].prefill_stats
    assert stats is not None
    assert (stats.num_prompt_tokens, stats.num_computed_tokens, stats.num_external_cached_tokens) == (20, 20, 0)
    assert [output.prefill_stats for output in outputs[1:]] == [None] * 3
    assert all(output.kv_transfer_params is None and output.events is None for output in outputs)
    assert all(len(output.new_token_ids) == 1 and output.new_logprobs is not None for output in outputs)
    assert [output.finish_reason for output in outputs] == [None, None, None, FinishReason.LENGTH]


@BOTH
async def test_phases_add_up(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """A timeline's phases follow each other without gap or overlap, from arrival to the last token."""
    await cluster.start()
    cluster.router.send("a", prompt_of(40, 1), 5, **sampling)
    cluster.router.send("whole", prompt_of(40, 2), 1)
    await cluster.router.finished("a", "whole")
    for name in ("a", "whole"):
        timeline = cluster.router.timeline(name)
        seconds = [spent for spent in timeline.phases.values() if spent is not None]
        assert sum(seconds) == pytest.approx(timeline.finished_s, abs=1e-3)
        assert min(seconds) >= 0
        assert timeline.as_dict()["phases"] == timeline.phases
    assert cluster.router.timeline("a").was_transferred is True
    assert None not in cluster.router.timeline("a").phases.values()
    assert cluster.router.timeline("a").output_tokens == 5


async def test_children_of_one_client_request_have_timelines_of_their_own(cluster: MiniCluster) -> None:
    """``n=3`` is three requests: same client id, three records, three outputs."""
    await cluster.start()
    for child in range(3):
        cluster.router.send(f"{child}_x", prompt_of(20, child), 2 + child, client="x")
    await cluster.router.finished("0_x", "1_x", "2_x")
    timelines = cluster.router.dispatcher.timelines.of("x")
    assert [(timeline.request, timeline.output_tokens) for timeline in timelines] == [("0_x", 2), ("1_x", 3), ("2_x", 4)]


async def test_work_is_spread_before_anybody_reports_it(cluster: MiniCluster) -> None:
    """A burst within one turn of the loop uses all workers, by the router's own books."""
    await cluster.start()
    for number in range(8):
        cluster.router.send(f"r{number}", prompt_of(20, number), 2)
    view = cluster.router.dispatcher.view()
    assert view[cluster.workers["prefill-0"].name].outstanding_prefill_tokens == 4 * 20
    assert view[cluster.workers["prefill-1"].name].outstanding_prefill_tokens == 4 * 20
    assert view[cluster.workers["decode-0"].name].outstanding_decode_tokens == 4 * 22
    assert view[cluster.workers["decode-1"].name].outstanding_decode_tokens == 4 * 22
    await cluster.router.finished(*(f"r{number}" for number in range(8)))
    assert [seen.outstanding_prefill_tokens + seen.outstanding_decode_tokens for seen in cluster.router.dispatcher.view().values()] == [
        0
    ] * 4


# -- clients that leave ------------------------------------------------------------------------------------------------------


@BOTH
async def test_cancel_while_queued(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """A request that no step has taken yet."""
    await cluster.start(prefill=1, decode=1)
    prefill = cluster.workers["prefill-0"]
    prefill.gate.shut()
    cluster.router.send("ahead", prompt_of(20, 1), 4, **sampling)
    await assert_eventually(lambda: prefill.engine.stats.running == 1, what="the first is being computed")
    cluster.router.send("a", prompt_of(20, 2), 4, **sampling)
    await assert_eventually(lambda: prefill.engine.stats.waiting == 1, what="the second waits")
    cluster.router.cancel("a")
    await assert_eventually(lambda: prefill.engine.stats.waiting == 0, what="it is gone from the queue")
    prefill.gate.open()
    await cluster.router.finished("ahead")
    assert cluster.router.outputs.get("a") is None


@BOTH
async def test_cancel_while_prefilling(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """Its blocks are free at once, while the step that computes it still runs."""
    await cluster.start(prefill=1, decode=1)
    prefill = cluster.workers["prefill-0"]
    prefill.gate.shut()
    cluster.router.send("a", prompt_of(40, 1), 4, **sampling)
    await assert_eventually(lambda: prefill.engine.stats.running == 1, what="it is being computed")
    assert not prefill.is_free()
    cluster.router.cancel("a")
    await assert_eventually(lambda: prefill.runtime.idle and prefill.engine.stats.free_blocks == 256, what="its blocks are free")
    prefill.gate.open()
    await cluster.nothing_left()
    assert cluster.router.outputs.get("a") is None
    assert cluster.router.timeline("a").outcome == "cancelled"


async def test_cancel_between_prefill_and_decode(cluster: MiniCluster) -> None:
    """In the very moment the first token is out and the decode leg on its way."""
    await cluster.start(prefill=1, decode=1)
    cluster.router.on_output = lambda output: cluster.router.cancel("a")
    cluster.router.send("a", prompt_of(40, 1), 50)
    await assert_eventually(lambda: cluster.router.tokens("a"), what="the first token")
    await cluster.nothing_left()
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 1)
    assert cluster.router.timeline("a").outcome == "cancelled"


@BOTH
async def test_cancel_while_decode_is_queued(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """The KV waits on prefill, the leg waits on decode: both are given up."""
    await cluster.start(prefill=1, decode=1)
    prefill, decode = cluster.workers["prefill-0"], cluster.workers["decode-0"]
    decode.gate.shut()
    cluster.router.send("ahead", prompt_of(20, 1), 4)
    # In its step, not before it: while decode still pulls for the first, the second may be there in time to be pulled for with it.
    await assert_eventually(lambda: decode.engine.stats.running == 1, what="decode has its hands full")
    cluster.router.send("a", prompt_of(40, 2), 50, **sampling)
    await assert_eventually(lambda: prefill.leases.blocks == 3, what="its KV waits to be read")
    cluster.router.cancel("a")
    await assert_eventually(lambda: prefill.leases.blocks == 0, what="its KV is released")
    decode.gate.open()
    await cluster.router.finished("ahead")


@BOTH
async def test_cancel_while_pulling(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """A long transfer is not waited for, on either side."""
    await cluster.start(prefill=1, decode=1, link_latency_s=60.0)
    prefill, decode = cluster.workers["prefill-0"], cluster.workers["decode-0"]
    cluster.router.send("a", prompt_of(40, 1), 50, **sampling)
    await assert_eventually(lambda: decode.engine.stats.free_blocks < 256, what="decode pulls")
    assert prefill.leases.blocks == 3
    cluster.router.cancel("a")
    await cluster.nothing_left(limit_s=5.0)


@BOTH
async def test_cancel_while_decoding(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """No token follows."""
    await cluster.start(prefill=1, decode=1)
    cluster.router.send("a", prompt_of(40, 1), 2000, **sampling)
    await assert_eventually(lambda: len(cluster.router.tokens("a")) > 5, what="it decodes")
    cluster.router.cancel("a")
    told = cluster.router.tokens("a")
    await cluster.nothing_left(limit_s=5.0)
    assert cluster.router.tokens("a") == told
    assert cluster.router.ends("a") == []


async def test_unknown_requests_are_cancelled_without_harm(cluster: MiniCluster) -> None:
    """Also ones that have ended, and twice."""
    await cluster.start(prefill=1, decode=1)
    cluster.router.cancel("never-was")
    cluster.router.send("a", prompt_of(20, 1), 2)
    await cluster.router.finished("a")
    cluster.router.cancel("a")
    cluster.router.cancel("a")
    assert cluster.router.timeline("a").outcome == "finished"


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_crowd_of_which_a_third_leaves(cluster: MiniCluster, seed: int) -> None:
    """200 requests; a third are cancelled at random moments. The others get every token; nothing is left."""
    await cluster.start(link_latency_s=0.002)
    rng = random.Random(seed)
    prompts = {f"r{number}": prompt_of(rng.randrange(1, 80), number % 100) for number in range(200)}
    lengths = {name: rng.randrange(1, 12) for name in prompts}
    leaving_at = {name: rng.choice([0, 0, 1, 2, 5]) for name in prompts if rng.random() < 1 / 3}
    assert len(leaving_at) > 40

    def leave(output: EngineCoreOutput) -> None:
        name = output.request_id
        if leaving_at.get(name) and len(cluster.router.tokens(name)) >= leaving_at[name]:
            cluster.router.cancel(name)

    cluster.router.on_output = leave
    impatient: set[str] = set()
    for name, prompt in prompts.items():
        cluster.router.send(name, prompt, lengths[name], **rng.choice([COUNTS, HELD]))
        impatient |= {name} if leaving_at.get(name) == 0 else set()
        for _ in range(rng.randrange(4)):  # turns of the loop, so that cancels meet requests in every state
            await asyncio.sleep(0)
        if impatient and rng.random() < 0.5:
            cluster.router.cancel(impatient.pop())
    for name in impatient:
        cluster.router.cancel(name)
    staying = [name for name in prompts if name not in leaving_at]
    await cluster.router.finished(*staying)
    for name in staying:
        assert cluster.router.tokens(name) == expected(prompts[name], lengths[name])
        assert cluster.router.ends(name) == [FinishReason.LENGTH]
    await cluster.nothing_left()
    for name in leaving_at:  # what came before it left was right all the same
        told = cluster.router.tokens(name)
        assert told == expected(prompts[name], len(told))
