"""The data plane as a whole: two prefill and two decode workers on real sockets, and what a client sees whatever goes wrong.

On the way out of every test nothing may be left: no request, no leg, no block, no lease, no task.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Any

import pytest
from vllm.v1.engine import EngineCoreOutput, FinishReason

from core.errors import EngineFailedError
from core.ids import LegId
from core.worker import Role, WorkerState
from engine.sim_config import SimulatedEngineConfig
from engine.sim_timing import ConstantTime
from engine.sim_tokens import TokenRule, TokenStream
from engine.simulated import SimulatedEngine
from router.events import FailKind
from router.limits import Limits
from router.queue import QueueLimits
from router.retry import Retry
from tests.contract.engine_contract import Running, ask, prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import MiniCluster, MiniWorker

BLOCK = 16
COUNTS: dict[str, Any] = {}
"""Sampling whose first token the prefill worker samples for the client."""
HELD: dict[str, Any] = {"thinking_token_budget": 5}
"""Sampling that cannot be continued: the decode worker samples the first token."""
BOTH = pytest.mark.parametrize("sampling", [COUNTS, HELD], ids=["prefill-samples-first", "decode-samples-first"])


def expected(prompt: list[int], count: int) -> list[int]:
    """What the simulated model says after a prompt."""
    stream = TokenStream(TokenRule(300), prompt)
    tokens: list[int] = []
    for _ in range(count):
        tokens.append(stream.next())
        stream.extend(tokens[-1:])
    return tokens


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
    await assert_eventually(lambda: decode.engine.stats.waiting + decode.engine.stats.running == 1, what="decode has its hands full")
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


# -- workers that go ---------------------------------------------------------------------------------------------------------


@BOTH
async def test_a_worker_killed_before_the_first_token_costs_a_pause(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """The request is done by the others; the client notices nothing."""
    await cluster.start()
    for worker in cluster.alive:
        if worker.role is Role.PREFILL:
            worker.gate.shut()
    cluster.router.send("a", prompt_of(40, 1), 5, **sampling)
    first = cluster.worker(cluster.router.timeline("a").prefill_worker)
    await assert_eventually(lambda: first.engine.stats.running == 1, what="it is being computed")
    await first.kill()
    for worker in cluster.alive:
        worker.gate.open()
    await cluster.router.finished("a")
    timeline = cluster.router.timeline("a")
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 5)
    assert (timeline.attempts, timeline.outcome) == (2, "finished")
    assert timeline.prefill_worker != first.name


async def test_a_worker_ends_at_the_very_moment_it_loses_a_router(cluster: MiniCluster) -> None:
    """Whoever is cancelled while what it waits for happens is cancelled all the same."""
    await cluster.start()
    worker = cluster.alive[0]
    worker.runtime._connection_lost.set()
    async with asyncio.timeout(10.0):
        await worker.kill()


async def test_a_decode_worker_killed_before_the_first_token_costs_a_pause(cluster: MiniCluster) -> None:
    """Decode was to sample the first token, so the client has none: the whole request starts again elsewhere."""
    await cluster.start(link_latency_s=60.0)
    cluster.router.send("a", prompt_of(40, 1), 5, **HELD)
    first = cluster.worker(cluster.router.timeline("a").decode_worker)
    await assert_eventually(lambda: first.engine.stats.waiting == 1, what="it pulls")
    other = next(worker for worker in cluster.alive if worker.role is Role.DECODE and worker is not first)
    await cluster.add_worker(other.name, Role.DECODE, epoch=2)  # one that does not take a minute per pull
    cluster.tell()
    await cluster.all_up()
    await first.kill()
    await cluster.router.finished("a")
    timeline = cluster.router.timeline("a")
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 5)
    assert (timeline.attempts, timeline.decode_worker) == (2, other.name)
    assert sum(spent for spent in timeline.phases.values() if spent is not None) == pytest.approx(timeline.finished_s, abs=1e-3)


async def test_a_worker_killed_after_tokens_costs_a_pause(cluster: MiniCluster) -> None:
    """Another worker goes on behind the tokens that are out: none is repeated, skipped or changed."""
    await cluster.start()
    cluster.router.send("a", prompt_of(40, 1), 600, **COUNTS)
    await assert_eventually(lambda: len(cluster.router.tokens("a")) > 3, what="it decodes")
    first = cluster.worker(cluster.router.timeline("a").decode_worker)
    await first.kill()
    await cluster.router.finished("a")
    timeline = cluster.router.timeline("a")
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 600)
    assert cluster.router.ends("a") == [FinishReason.LENGTH]
    assert (timeline.losses, timeline.resumes, timeline.outcome) == (1, 1, "finished")
    assert timeline.decode_worker != first.name
    assert len([output for output in cluster.router.outputs["a"] if output.prefill_stats is not None]) == 1


async def test_what_cannot_be_continued_ends_in_an_error(cluster: MiniCluster) -> None:
    """One error output behind the tokens the client has, and why; what the others held is freed."""
    await cluster.start()
    cluster.router.send("a", prompt_of(40, 1), 2000, **HELD)
    await assert_eventually(lambda: len(cluster.router.tokens("a")) > 3, what="it decodes")
    await cluster.worker(cluster.router.timeline("a").decode_worker).kill()
    await cluster.router.finished("a")
    told = cluster.router.tokens("a")
    assert told == expected(prompt_of(40, 1), len(told))
    assert cluster.router.ends("a") == [FinishReason.ERROR]
    assert "cannot be continued exactly" in (cluster.router.timeline("a").error or "")
    failure = cluster.router.dispatcher.take_failure("client-a")
    assert failure is not None
    assert failure.kind is FailKind.LOST


def all_beyond(cluster: MiniCluster, names: list[str], reached: int) -> bool:
    return all(len(cluster.router.tokens(name)) > reached or cluster.router.ends(name) for name in names)


@pytest.mark.parametrize("seed", range(3))
async def test_one_death_after_the_other(cluster: MiniCluster, seed: int) -> None:
    """While 24 streams run, workers are killed and replaced one by one; every stream gets every token, in order, once."""
    await cluster.start(retry=Retry(max_losses=50, backoff_s=0.0))
    rng = random.Random(seed)
    names = [f"r{number}" for number in range(24)]
    prompts = {name: prompt_of(rng.randrange(5, 90), number) for number, name in enumerate(names)}
    for name in names:
        cluster.router.send(name, prompts[name], 300, **COUNTS)
    for life in range(2, 10):
        victim = rng.choice(cluster.alive)
        reached = min(len(cluster.router.tokens(name)) for name in names if not cluster.router.ends(name))
        await assert_eventually(partial(all_beyond, cluster, names, reached), what="all go on")
        await victim.kill()
        await cluster.add_worker(victim.name, victim.role, epoch=life)
        cluster.tell()
    await cluster.router.finished(*names)
    for name in names:
        assert cluster.router.tokens(name) == expected(prompts[name], 300)
        assert cluster.router.ends(name) == [FinishReason.LENGTH]


async def test_a_request_that_ends_engines_does_not_end_them_all(cluster: MiniCluster) -> None:
    """Given up after the third; the fourth worker never sees it, and others' requests go on."""
    await cluster.start()
    poison = prompt_of(33, 9)
    for worker in cluster.alive:  # each breaks on this request only
        add = worker.engine.add

        async def add_or_break(request: Any, add: Any = add, worker: MiniWorker = worker) -> None:
            await add(request)
            if request.prompt_token_ids[:33] == poison:
                worker.gate.break_engine()

        worker.engine.add = add_or_break  # type: ignore[method-assign]
    cluster.router.send("innocent", prompt_of(20, 1), 400)
    await assert_eventually(lambda: len(cluster.router.tokens("innocent")) > 1, what="it decodes")
    cluster.router.send("poison", poison, 50)
    await cluster.router.finished("poison", "innocent")
    assert cluster.router.ends("poison") == [FinishReason.ERROR]
    assert "given up after 3 engines" in (cluster.router.timeline("poison").error or "")
    assert len(cluster.alive) == 1
    assert cluster.router.tokens("innocent") == expected(prompt_of(20, 1), 400)


@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (2, 2)])
async def test_a_request_that_ends_engines_ends_nobody_elses_answer(cluster: MiniCluster, prefill: int, decode: int) -> None:
    """Engines are replaced at once, so that everybody meets the poisoned request again and again. It is given up; the others are not."""
    await cluster.start(prefill=prefill, decode=decode)
    poison = prompt_of(33, 9)

    def arm(worker: MiniWorker) -> None:
        add = worker.engine.add

        async def add_or_break(request: Any) -> None:
            await add(request)
            if request.prompt_token_ids[:33] == poison:
                worker.gate.break_engine()

        worker.engine.add = add_or_break  # type: ignore[method-assign]

    for worker in cluster.alive:
        arm(worker)
    names = [f"r{number}" for number in range(8)]
    for number, name in enumerate(names):
        cluster.router.send(name, prompt_of(20, number), 900)
    await assert_eventually(partial(all_beyond, cluster, names, 2), what="all decode")
    cluster.router.send("poison", poison, 50)
    life = 2
    while not cluster.router.ends("poison"):
        for name, worker in list(cluster.workers.items()):
            if not worker.alive:
                arm(await cluster.add_worker(name, worker.role, epoch=life))
                cluster.tell()
                life += 1
        await asyncio.sleep(0.01)
    assert "given up after 3 engines" in (cluster.router.timeline("poison").error or "")
    while not all(cluster.router.ends(name) for name in names):
        for name, worker in list(cluster.workers.items()):
            if not worker.alive:
                await cluster.add_worker(name, worker.role, epoch=(life := life + 1))
                cluster.tell()
        await asyncio.sleep(0.01)
    for number, name in enumerate(names):
        assert cluster.router.ends(name) == [FinishReason.LENGTH]
        assert cluster.router.tokens(name) == expected(prompt_of(20, number), 900)


async def test_a_decode_worker_lost_during_prefill_is_not_sent_the_leg(cluster: MiniCluster) -> None:
    """It was chosen while it lived. The prompt is computed where it was, so the request is done there."""
    await cluster.start(prefill=1, decode=1)
    prefill, decode = cluster.workers["prefill-0"], cluster.workers["decode-0"]
    prefill.gate.shut()
    cluster.router.send("a", prompt_of(40, 1), 5)
    await assert_eventually(lambda: prefill.engine.stats.running == 1, what="it is being computed")
    await decode.kill()
    await assert_eventually(lambda: decode.name not in cluster.router.dispatcher.view(), what="its loss is noticed")
    prefill.gate.open()
    await cluster.router.finished("a")
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 5)
    assert cluster.router.timeline("a").decode_worker == prefill.name


@BOTH
async def test_a_decode_worker_lost_during_prefill_is_replaced(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """Another one reads the prompt that was computed for it: nothing is computed twice."""
    await cluster.start(prefill=1, decode=2)
    prefill = cluster.workers["prefill-0"]
    prefill.gate.shut()
    cluster.router.send("a", prompt_of(40, 1), 5, **sampling)
    chosen = cluster.worker(cluster.router.timeline("a").decode_worker)
    await assert_eventually(lambda: prefill.engine.stats.running == 1, what="it is being computed")
    await chosen.kill()
    await assert_eventually(lambda: chosen.name not in cluster.router.dispatcher.view(), what="its loss is noticed")
    prefill.gate.open()
    await cluster.router.finished("a")
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 5)
    assert cluster.router.timeline("a").decode_worker != chosen.name
    assert prefill.engine.stats.computed_prompt_tokens == 40


async def test_a_failed_pull_is_computed_again_by_decode(cluster: MiniCluster) -> None:
    """The KV is gone when decode comes for it: slower, never wrong, and the record says so."""
    await cluster.start(prefill=1, decode=1)
    prefill, decode = cluster.workers["prefill-0"], cluster.workers["decode-0"]
    cluster.router.send("busy", prompt_of(20, 1), 30)
    await assert_eventually(lambda: cluster.router.timeline("busy").decoding_s is not None, what="decode is at work")
    decode.gate.shut()
    cluster.router.send("a", prompt_of(40, 2), 5, **COUNTS)
    cluster.router.send("b", prompt_of(40, 3), 5, **HELD)
    await assert_eventually(lambda: decode.engine.stats.waiting == 2, what="the legs wait in decode's queue")
    await prefill.engine.release([LegId("a:0"), LegId("b:0")])
    await assert_eventually(lambda: prefill.leases.blocks == 0, what="nothing is kept")
    decode.gate.open()
    await cluster.router.finished("a", "b", "busy")
    for name, seed, recomputed in (("a", 2, 41), ("b", 3, 40)):  # "a": the first token, too, is part of what decode computes
        timeline = cluster.router.timeline(name)
        assert cluster.router.tokens(name) == expected(prompt_of(40, seed), 5)
        assert (timeline.was_transferred, timeline.recomputed_tokens, timeline.transfer_bytes) == (False, recomputed, 0)
    assert cluster.router.timeline("busy").was_transferred is True


@BOTH
async def test_a_keeper_that_dies_is_not_waited_for(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """It dies between prefill and pull, with decode queueing or pulling: the request is planned anew at once."""
    await cluster.start(prefill=1, decode=1, link_latency_s=60.0)
    prefill, decode = cluster.workers["prefill-0"], cluster.workers["decode-0"]
    cluster.router.send("a", prompt_of(40, 1), 5, **sampling)
    await assert_eventually(lambda: decode.engine.stats.free_blocks < 256, what="decode pulls")
    await prefill.kill()
    await cluster.router.finished("a", limit_s=5.0)
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 5)
    assert (cluster.router.timeline("a").was_split, cluster.router.timeline("a").losses) == (False, 0)


@BOTH
async def test_an_engine_failure_is_a_lost_worker(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """Requests of that engine go on elsewhere where that is possible, and end in one error where not; others do not notice."""
    await cluster.start(prefill=1, decode=2)
    for number in range(6):
        cluster.router.send(f"r{number}", prompt_of(20, number), 60, **sampling)
    await assert_eventually(lambda: all(len(cluster.router.tokens(f"r{number}")) > 1 for number in range(6)), what="all decode")
    broken = cluster.workers["decode-0"]
    theirs = [name for name in (f"r{number}" for number in range(6)) if cluster.router.timeline(name).decode_worker == broken.name]
    assert 0 < len(theirs) < 6
    broken.gate.break_engine()
    await cluster.router.finished(*(f"r{number}" for number in range(6)))
    for number in range(6):
        name = f"r{number}"
        told = cluster.router.tokens(name)
        ends = FinishReason.ERROR if name in theirs and sampling is HELD else FinishReason.LENGTH
        assert cluster.router.ends(name) == [ends]
        assert told == expected(prompt_of(20, number), 60 if ends is FinishReason.LENGTH else len(told))
    assert "broken on purpose" in await broken.running


async def test_without_workers_a_request_waits_and_then_ends_in_an_error(cluster: MiniCluster) -> None:
    """Once, and it says that it was not for lack of room."""
    await cluster.start(prefill=0, decode=0, limits=Limits(queue=QueueLimits(max_wait_s=0.3)))
    cluster.router.send("a", prompt_of(20, 1), 4)
    assert len(cluster.router.dispatcher.queue) == 1
    await cluster.router.finished("a")
    assert cluster.router.ends("a") == [FinishReason.ERROR]
    failure = cluster.router.dispatcher.take_failure("client-a")
    assert failure is not None
    assert failure.kind is FailKind.UNAVAILABLE


async def test_a_request_outlives_all_workers(cluster: MiniCluster) -> None:
    """Every worker dies in the middle of its answer; when there is one again, it goes on behind the tokens that are out."""
    await cluster.start(prefill=1, decode=1)
    cluster.router.send("a", prompt_of(40, 1), 300)
    await assert_eventually(lambda: len(cluster.router.tokens("a")) > 3, what="it decodes")
    for worker in cluster.alive:
        await worker.kill()
    await assert_eventually(lambda: len(cluster.router.dispatcher.queue) == 1, what="it waits")
    await cluster.add_worker("decode-0", Role.DECODE, epoch=2)
    cluster.tell()
    await cluster.router.finished("a")
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 300)
    assert cluster.router.timeline("a").waited_s > 0


async def test_a_request_that_takes_too_long_is_ended(cluster: MiniCluster) -> None:
    """Wherever it is, with an error that says so; what it held is free."""
    await cluster.start(prefill=1, decode=1, limits=Limits(request_timeout_s=0.3))
    cluster.router.send("a", prompt_of(40, 1), 4000)
    await cluster.router.finished("a")
    assert cluster.router.ends("a") == [FinishReason.ERROR]
    failure = cluster.router.dispatcher.take_failure("client-a")
    assert failure is not None
    assert (failure.kind, failure.reason) == (FailKind.TIMED_OUT, "not done after 0.3 s")
    cluster.router.send("b", prompt_of(40, 1), 2)
    await cluster.router.finished("b")
    assert cluster.router.ends("b") == [FinishReason.LENGTH]


async def test_one_pool_alone_serves(cluster: MiniCluster) -> None:
    """A role is a label: with no decode worker, prefill workers do it all."""
    await cluster.start(prefill=1, decode=0)
    cluster.router.send("a", prompt_of(20, 1), 4)
    await cluster.router.finished("a")
    assert cluster.router.tokens("a") == expected(prompt_of(20, 1), 4)
    assert cluster.router.timeline("a").was_transferred is None


# -- workers that drain, change and come back --------------------------------------------------------------------------------


async def test_a_draining_worker_refuses_and_the_request_goes_elsewhere(cluster: MiniCluster) -> None:
    """Routers hear of draining a moment late; nobody loses a request over it, and the refusal leaves no trace in the books."""
    await cluster.start()
    draining, other = cluster.workers["prefill-0"], cluster.workers["prefill-1"]
    draining.runtime.drain(60.0)
    other.gate.shut()
    names = [f"r{number}" for number in range(6)]
    for number, name in enumerate(names):
        cluster.router.send(name, prompt_of(20, number), 3)
    at = other.engine
    await assert_eventually(lambda: at.stats.running + at.stats.waiting == 6, what="all are at the other one")
    assert cluster.router.dispatcher.view()[draining.name].outstanding_prefill_tokens == 0
    assert cluster.router.dispatcher.outstanding_legs == 6
    other.gate.open()
    await cluster.router.finished(*names)
    assert {cluster.router.timeline(name).attempts for name in names} == {1, 2}
    assert [cluster.router.tokens(name) for name in names] == [expected(prompt_of(20, number), 3) for number in range(6)]
    assert draining.engine.stats.computed_prompt_tokens == 0


@BOTH
async def test_draining_decode_workers_costs_no_client_anything(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """A request in prefill when its decode worker starts to drain: continued there if it has tokens, else planned anew."""
    await cluster.start(prefill=1, decode=2)
    prefill = cluster.workers["prefill-0"]
    prefill.gate.shut()
    cluster.router.send("a", prompt_of(40, 1), 4, **sampling)
    chosen = cluster.worker(cluster.router.timeline("a").decode_worker)
    await assert_eventually(lambda: prefill.engine.stats.running == 1, what="it is being computed")
    chosen.runtime.drain(60.0)
    prefill.gate.open()
    await cluster.router.finished("a")
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 4)
    assert cluster.router.ends("a") == [FinishReason.LENGTH]


async def test_when_all_refuse_the_request_waits(cluster: MiniCluster) -> None:
    """Until somebody takes it."""
    await cluster.start(prefill=1, decode=1)
    for worker in cluster.alive:
        worker.runtime.drain(60.0)
    cluster.router.send("a", prompt_of(20, 1), 3)
    await assert_eventually(
        lambda: len(cluster.router.dispatcher.queue) == 1 and cluster.router.timeline("a").refusals >= 2, what="it waits"
    )
    await cluster.add_worker("prefill-1", Role.PREFILL)
    cluster.tell()
    await cluster.router.finished("a")
    assert cluster.router.tokens("a") == expected(prompt_of(20, 1), 3)


async def test_a_drain_that_takes_too_long_moves_what_runs(cluster: MiniCluster) -> None:
    """Past its deadline a draining worker asks its routers to move what it has: continued elsewhere, without a loss; then it is idle."""
    await cluster.start(prefill=1, decode=2)
    cluster.router.send("a", prompt_of(40, 1), 1500)
    cluster.router.send("stays", prompt_of(40, 2), 700, **HELD)
    await assert_eventually(lambda: all(len(cluster.router.tokens(name)) > 3 for name in ("a", "stays")), what="they decode")
    leaving = cluster.worker(cluster.router.timeline("a").decode_worker)
    leaving.runtime.drain(0.0)
    await assert_eventually(lambda: cluster.router.timeline("a").resumes == 1, what="it was moved")
    assert cluster.router.timeline("a").decode_worker != leaving.name
    assert cluster.router.timeline("a").losses == 0
    await cluster.router.finished("a", "stays")  # what cannot be continued runs to its end where it is
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 1500)
    assert cluster.router.tokens("stays") == expected(prompt_of(40, 2), 700)
    await assert_eventually(leaving.is_free, what="it has nothing left")


async def test_workers_told_to_be_draining_are_not_asked(cluster: MiniCluster) -> None:
    """Their state comes with the membership; their connection and what runs on them stay."""
    await cluster.start(prefill=2, decode=1)
    cluster.tell(prefill_0=WorkerState.DRAINING)
    name = cluster.workers["prefill-0"].name
    await assert_eventually(lambda: cluster.router.dispatcher.view()[name].card.state is WorkerState.DRAINING, what="it is known")
    for number in range(4):
        cluster.router.send(f"r{number}", prompt_of(20, number), 2)
    await cluster.router.finished(*(f"r{number}" for number in range(4)))
    assert {cluster.router.timeline(f"r{number}").prefill_worker for number in range(4)} == {cluster.workers["prefill-1"].name}
    assert {cluster.router.timeline(f"r{number}").attempts for number in range(4)} == {1}


async def test_a_replaced_worker_is_another_one(cluster: MiniCluster) -> None:
    """Same name, new epoch: what the old life had is lost and done again; the new one starts with clean books."""
    await cluster.start(prefill=1, decode=1)
    old = cluster.workers["prefill-0"]
    old.gate.shut()
    cluster.router.send("a", prompt_of(40, 1), 4)
    await assert_eventually(lambda: old.engine.stats.running == 1, what="the old life computes it")
    await cluster.add_worker("prefill-0", Role.PREFILL, epoch=2)  # the old one is not dead, only given up
    second = await cluster.add_worker("prefill-1", Role.PREFILL)
    cluster.tell()
    await cluster.all_up()
    await cluster.router.finished("a", limit_s=20.0)
    assert cluster.router.timeline("a").attempts == 2
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 4)
    assert [seen.outstanding_prefill_tokens for seen in cluster.router.dispatcher.view().values()] == [0, 0, 0]
    old.gate.open()  # whatever it says now, nobody listens
    cluster.router.send("b", prompt_of(40, 2), 4)
    await cluster.router.finished("b")
    assert cluster.router.tokens("b") == expected(prompt_of(40, 2), 4)
    assert second.alive
    await assert_eventually(old.is_free, what="the old life has noticed that its router left")


async def test_a_worker_taken_out_of_service_is_a_lost_worker(cluster: MiniCluster) -> None:
    """No connection has to break for it: the controller's word is enough."""
    await cluster.start(prefill=2, decode=1)
    for worker in cluster.alive:
        if worker.role is Role.PREFILL:
            worker.gate.shut()
    cluster.router.send("a", prompt_of(40, 1), 4)
    first = cluster.worker(cluster.router.timeline("a").prefill_worker)
    await assert_eventually(lambda: first.engine.stats.running == 1, what="it is being computed")
    cluster.directory.tell([worker.card for worker in cluster.alive if worker is not first])
    await assert_eventually(lambda: cluster.router.timeline("a").attempts == 2, what="it is planned again")
    for worker in cluster.alive:
        worker.gate.open()
    await cluster.router.finished("a")
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 4)


# -- routers that go ---------------------------------------------------------------------------------------------------------


@BOTH
async def test_a_vanished_router_leaves_nothing_on_the_workers(cluster: MiniCluster, sampling: dict[str, Any]) -> None:
    """Its running legs are aborted and its kept KV released within two seconds; other routers' requests go on."""
    await cluster.start(routers=2)
    leaving, staying = cluster.routers
    staying.send("stays", prompt_of(20, 1), 400, **sampling)
    for number in range(4):
        leaving.send(f"r{number}", prompt_of(20, 2 + number), 3000, **sampling)
    await assert_eventually(lambda: all(len(leaving.tokens(f"r{number}")) > 2 for number in range(4)), what="all decode")
    await leaving.vanish()
    await assert_eventually(lambda: sum(worker.engine.stats.running for worker in cluster.alive) <= 1, 2.0, "its legs are aborted")
    await staying.finished("stays")
    assert staying.tokens("stays") == expected(prompt_of(20, 1), 400)


async def test_a_vanished_routers_kept_kv_is_released(cluster: MiniCluster) -> None:
    """Prefill keeps KV for a decode leg that is stuck; with the router gone nobody will read it."""
    await cluster.start(prefill=1, decode=1, routers=2, link_latency_s=60.0)
    leaving = cluster.routers[0]
    prefill: MiniWorker = cluster.workers["prefill-0"]
    leaving.send("a", prompt_of(40, 1), 20)
    await assert_eventually(lambda: prefill.leases.blocks == 3, what="KV is kept")
    await leaving.vanish()
    await cluster.workers_free(limit_s=2.0)
