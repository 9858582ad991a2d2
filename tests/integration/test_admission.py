"""Refusal and re-offer on a real data plane: workers take what they have room for, routers keep the rest and lose none of it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from vllm.v1.engine import FinishReason

from core.pool_config import PoolConfig
from core.worker import Role
from router.events import FailKind
from router.limits import Limits
from router.queue import QueueLimits
from tests.contract.engine_contract import prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import MiniCluster
from tests.support.sampling import expected

NARROW = PoolConfig(max_prefill_tokens=100, headroom_tokens=16)
BELIEVED = Limits(max_prefill_tokens=dict.fromkeys(Role, 100), headroom_tokens=dict.fromkeys(Role, 16))
"""What routers are told of such workers."""
TRUSTING = Limits(max_prefill_tokens=dict.fromkeys(Role, 10**9))
"""A router that believes there is always room: every bound is then the workers' own."""


@pytest.mark.parametrize("limits", [BELIEVED, TRUSTING], ids=["router-knows", "worker-refuses"])
@pytest.mark.parametrize("routers", [1, 3])
async def test_a_burst_is_served_whole(cluster: MiniCluster, limits: Limits, routers: int) -> None:
    """Many times what the workers take on at once: the rest waits in the routers, nothing is lost, and no bound is broken."""
    await cluster.start(routers=routers, pool=NARROW, limits=limits, num_blocks=64, max_model_len=512, max_num_seqs=4)
    most = dict.fromkeys(cluster.workers, 0)
    names = [f"r{number}" for number in range(40)]
    by_router = {name: cluster.routers[number % routers] for number, name in enumerate(names)}

    def watch(_: object) -> None:
        for name, worker in cluster.workers.items():
            stats = worker.engine.stats
            most[name] = max(most[name], stats.running + stats.waiting)

    for router in cluster.routers:
        router.on_output = watch
    for number, name in enumerate(names):
        by_router[name].send(name, prompt_of(20 + number, number), 30)
    for router in cluster.routers:
        await router.finished(*(name for name in names if by_router[name] is router), limit_s=30.0)
    for number, name in enumerate(names):
        assert by_router[name].tokens(name) == expected(prompt_of(20 + number, number), 30)
    assert max(most["decode-0"], most["decode-1"]) <= 4
    assert max(most["prefill-0"], most["prefill-1"]) <= 5
    timelines = [by_router[name].timeline(name) for name in names]
    assert any(timeline.waited_s > 0 for timeline in timelines)
    if limits is TRUSTING:
        assert any(timeline.refusals for timeline in timelines)


async def test_first_come_first_served(cluster: MiniCluster) -> None:
    """Those that need as much are served in order; a small one for which there is room need not wait for the big ones."""
    await cluster.start(prefill=1, decode=1, pool=NARROW, limits=BELIEVED)
    prefill = cluster.workers["prefill-0"]
    prefill.gate.shut()
    for number in range(4):
        cluster.router.send(f"big{number}", prompt_of(90, number), 2)
    cluster.router.send("small", prompt_of(5, 9), 2)
    assert len(cluster.router.dispatcher.queue) == 3
    prefill.gate.open()
    order: list[str] = []
    cluster.router.on_output = lambda output: None if output.request_id in order else order.append(output.request_id)
    await cluster.router.finished("small", *(f"big{number}" for number in range(4)))
    assert sorted(order[:2]) == ["big0", "small"]
    assert order[2:] == ["big1", "big2", "big3"]


async def test_a_big_one_is_not_passed_for_ever(cluster: MiniCluster) -> None:
    """Small ones that always fit would keep it waiting; after some of them they wait behind it."""
    await cluster.start(prefill=1, decode=1, pool=NARROW, limits=BELIEVED)
    cluster.router.send("running", prompt_of(60, 0), 2)
    cluster.router.send("big", prompt_of(99, 1), 2)
    sent = 0

    def another(_: object) -> None:
        nonlocal sent
        if not cluster.router.ends("big") and sent < 300:
            sent += 1
            cluster.router.send(f"small{sent}", prompt_of(20, sent % 90), 2)

    cluster.router.on_output = another
    for _ in range(4):
        another(None)
    await cluster.router.finished("big", limit_s=20.0)
    assert sent < 300
    await cluster.router.finished("running", *(f"small{number}" for number in range(1, sent + 1)))


async def test_a_worker_that_is_full_is_not_asked_again_and_again(cluster: MiniCluster) -> None:
    """Filled by another router: those that wait are not sent to it at every sign of life, and all go when it has room."""
    await cluster.start(prefill=1, decode=1, routers=2, pool=NARROW, limits=TRUSTING)
    prefill = cluster.workers["prefill-0"]
    other, router = cluster.routers
    prefill.gate.shut()
    other.send("fills", prompt_of(90, 0), 2)
    await assert_eventually(lambda: prefill.engine.stats.running == 1, what="it is full")
    names = [f"r{number}" for number in range(30)]
    for number, name in enumerate(names):
        router.send(name, prompt_of(90, number), 2)
    began = asyncio.get_running_loop().time()
    await assert_eventually(lambda: asyncio.get_running_loop().time() - began > 1.5, what="some pulses have come")
    assert sum(router.timeline(name).refusals for name in names) <= 30 + 5
    assert len(router.dispatcher.queue) == 30
    prefill.gate.open()
    await router.finished(*names)
    await other.finished("fills")


async def test_one_big_prompt_does_not_shut_the_door(cluster: MiniCluster) -> None:
    """While it waits for KV that a long answer holds, small requests are served."""
    await cluster.start(prefill=1, decode=1, pool=NARROW, limits=BELIEVED)
    cluster.router.send("long", prompt_of(20, 1), 3000)
    await assert_eventually(lambda: len(cluster.router.tokens("long")) > 2, what="it decodes")
    cluster.router.send("big", prompt_of(4060, 2), 2)
    assert len(cluster.router.dispatcher.queue) == 1
    for number in range(20):
        assert cluster.router.dispatcher.overload() is None
        cluster.router.send(f"r{number}", prompt_of(16, number), 2)
        await cluster.router.finished(f"r{number}")
    assert not cluster.router.ends("big")
    cluster.router.cancel("long")
    await cluster.router.finished("big")


async def test_a_prompt_that_is_computed_waits_for_a_decode_worker(cluster: MiniCluster) -> None:
    """Its KV is kept meanwhile and read by whoever has room first; nothing is computed twice. The seat is another router's."""
    await cluster.start(prefill=1, decode=1, routers=2, pool=NARROW, limits=TRUSTING, max_num_seqs=1)
    prefill, decode = cluster.workers["prefill-0"], cluster.workers["decode-0"]
    other, router = cluster.routers
    other.send("first", prompt_of(30, 1), 3000)
    await assert_eventually(lambda: decode.engine.stats.running == 1, what="the only seat is taken")
    router.send("second", prompt_of(40, 2), 3)
    await assert_eventually(lambda: prefill.leases.blocks == 3 and len(router.dispatcher.queue) == 1, what="it waits")
    assert router.tokens("second") == expected(prompt_of(40, 2), 1)
    other.cancel("first")
    await router.finished("second")
    assert router.tokens("second") == expected(prompt_of(40, 2), 3)
    assert router.timeline("second").was_transferred is True
    assert router.timeline("second").refusals > 0
    assert prefill.engine.stats.computed_prompt_tokens == 70


async def test_waiting_ends(cluster: MiniCluster) -> None:
    """After as long as the queue allows, with an error that says so; a request that is under way waits longer."""
    limits = Limits(queue=QueueLimits(max_wait_s=0.3), max_prefill_tokens=dict.fromkeys(Role, 100))
    await cluster.start(prefill=1, decode=1, pool=NARROW, limits=limits)
    prefill = cluster.workers["prefill-0"]
    prefill.gate.shut()
    cluster.router.send("first", prompt_of(90, 1), 2)
    cluster.router.send("second", prompt_of(90, 2), 2)
    await cluster.router.finished("second")
    assert cluster.router.ends("second") == [FinishReason.ERROR]
    failure = cluster.router.dispatcher.take_failure("client-second")
    assert failure is not None
    assert failure.kind is FailKind.OVERLOADED
    assert failure.reason.startswith("no worker had room for 0.")
    assert msgspec.json.encode(cluster.router.timeline("second").error).startswith(b'"no worker had room')  # the console tells it
    prefill.gate.open()
    await cluster.router.finished("first")
    assert cluster.router.ends("first") == [FinishReason.LENGTH]


async def test_the_door_is_shut_while_the_queue_is_full(cluster: MiniCluster) -> None:
    """And open again once it has drained."""
    limits = Limits(queue=QueueLimits(max_requests=3), max_prefill_tokens=dict.fromkeys(Role, 100))
    await cluster.start(prefill=1, decode=1, pool=NARROW, limits=limits)
    prefill, dispatcher = cluster.workers["prefill-0"], cluster.router.dispatcher
    prefill.gate.shut()
    assert dispatcher.overload() is None
    for number in range(4):
        cluster.router.send(f"r{number}", prompt_of(90, number), 2)
    assert len(dispatcher.queue) == 3
    assert dispatcher.overload() == "3 requests are waiting, and 3 may"
    prefill.gate.open()
    await cluster.router.finished(*(f"r{number}" for number in range(4)))
    assert dispatcher.overload() is None


async def test_those_who_leave_make_room(cluster: MiniCluster) -> None:
    """A client that goes while it waits leaves the queue, and one that goes while it runs lets the next one in."""
    await cluster.start(prefill=1, decode=1, pool=NARROW, limits=BELIEVED)
    prefill, dispatcher = cluster.workers["prefill-0"], cluster.router.dispatcher
    prefill.gate.shut()
    for number in range(3):
        cluster.router.send(f"r{number}", prompt_of(90, number), 2)
    await assert_eventually(lambda: prefill.engine.stats.running == 1, what="the first is being computed")
    cluster.router.cancel("r1")
    assert len(dispatcher.queue) == 1
    cluster.router.cancel("r0")
    assert len(dispatcher.queue) == 0
    prefill.gate.open()
    await cluster.router.finished("r2")
    assert cluster.router.tokens("r2") == expected(prompt_of(90, 2), 2)


async def test_what_fits_nowhere_is_refused_at_once(cluster: MiniCluster) -> None:
    """It does not wait for room that will never be, and does not keep others waiting."""
    await cluster.start(prefill=1, decode=1, num_blocks=32, max_model_len=512)
    cluster.router.send("a", prompt_of(512, 1), 2)
    cluster.router.send("b", prompt_of(20, 2), 2)
    assert cluster.router.ends("a") == [FinishReason.ERROR]
    assert "has room for 512 tokens only" in (cluster.router.timeline("a").error or "")
    await cluster.router.finished("b")
