"""Workers that die, drain, change and come back, and routers that vanish, on a real data plane: what clients see of it, and what is left.

On the way out of every test nothing may be left: no request, no leg, no block, no lease, no task.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Any

import pytest
from vllm.v1.engine import FinishReason

from core.ids import LegId
from core.worker import Role, WorkerState
from router.events import FailKind
from router.limits import Limits
from router.retry import Retry
from tests.contract.engine_contract import prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import MiniCluster, MiniWorker
from tests.support.sampling import BOTH, COUNTS, HELD, expected

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
    cluster.router.send("busy", prompt_of(20, 1), 300)
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
