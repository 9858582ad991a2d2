"""Roles that change and workers that rest, on real sockets with simulated engines, no Ray: what routers and workers make of it."""

from __future__ import annotations

import asyncio
import random

import pytest

from core.pool_config import PoolConfig
from core.worker import Role, WorkerState
from engine.sim_timing import ConstantTime
from tests.contract.engine_contract import prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import MiniCluster

pytestmark = pytest.mark.integration

SLOW = ConstantTime(0.005)


def roles(cluster: MiniCluster) -> dict[str, Role]:
    """As the router sees them."""
    return {name: seen.card.role for name, seen in cluster.router.dispatcher.view().items()}


async def become(cluster: MiniCluster, **changed: Role) -> None:
    """Relabels workers, as the controller tells of it; returns when the router has heard."""
    for name, role in changed.items():
        cluster.workers[name.replace("_", "-")].role = role
    cluster.tell()
    await assert_eventually(lambda: roles(cluster) == {name: worker.role for name, worker in cluster.workers.items()}, 5.0, "heard")


async def test_the_only_two_workers_change_places(cluster: MiniCluster) -> None:
    """In the middle of answers and of prompts that are kept: each ends where it is; the next are made the other way round."""
    await cluster.start(prefill=1, decode=1, timing=SLOW)
    running = [f"running-{number}" for number in range(6)]
    for number, name in enumerate(running):
        cluster.router.send(name, prompt_of(60 + 40 * number, number), 100)
    await assert_eventually(lambda: all(cluster.router.tokens(name) for name in running), 10.0, "all have begun")
    await become(cluster, prefill_0=Role.DECODE, decode_0=Role.PREFILL)
    cluster.router.send("later", prompt_of(60, 9), 20)
    await cluster.router.finished(*running, "later")
    for name in running:
        timeline = cluster.router.timeline(name)
        assert len(cluster.router.tokens(name)) == 100
        assert (timeline.losses, timeline.resumes, timeline.prefill_worker, timeline.decode_worker) == (0, 0, "prefill-0", "decode-0")
    timeline = cluster.router.timeline("later")
    assert (timeline.was_split, timeline.prefill_worker, timeline.decode_worker) == (True, "decode-0", "prefill-0")


async def test_answers_are_the_same_while_roles_change_all_the_time(cluster: MiniCluster) -> None:
    """Four workers, a change every hundredth of a second, no pool ever empty: nothing is lost, and every token is what it is at rest."""
    await cluster.start(prefill=2, decode=2, timing=ConstantTime(0.002))
    rng, names = random.Random(5), [f"r-{number}" for number in range(40)]
    for number, name in enumerate(names[:8]):
        cluster.router.send(f"rest-{name}", prompt_of(30 + 11 * number, number), 40)
    await cluster.router.finished(*(f"rest-{name}" for name in names[:8]))
    for number, name in enumerate(names):
        cluster.router.send(name, prompt_of(30 + 11 * (number % 8), number % 8), 40)
        worker = rng.choice(list(cluster.workers.values()))
        if sum(other.role is worker.role for other in cluster.workers.values()) > 1:
            worker.role = Role.DECODE if worker.role is Role.PREFILL else Role.PREFILL
            cluster.tell()
        await asyncio.sleep(0.01)
    await cluster.router.finished(*names)
    for number, name in enumerate(names):
        assert cluster.router.tokens(name) == cluster.router.tokens(f"rest-{names[number % 8]}")
        assert (cluster.router.timeline(name).losses, cluster.router.timeline(name).outcome) == (0, "finished")


async def test_who_waits_is_told_at_once(cluster: MiniCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of a role wakes the queue; news that change no card of a worker known before do not."""
    await cluster.start(prefill=2, decode=1)
    woken: list[dict[str, Role]] = []
    monkeypatch.setattr(cluster.router.dispatcher, "link_changed", lambda: woken.append(roles(cluster)))
    version = cluster.router.members._version
    cluster.tell()
    await assert_eventually(lambda: cluster.router.members._version > version, 5.0, "told")
    assert woken == []
    await become(cluster, prefill_1=Role.DECODE)
    assert woken == [{"prefill-0": Role.PREFILL, "prefill-1": Role.DECODE, "decode-0": Role.DECODE}]


async def test_a_worker_rests(cluster: MiniCluster) -> None:
    """Asked while it works it does not; drained and idle it does, and takes nothing; woken it serves the same router in the same life."""
    await cluster.start(prefill=1, decode=2, wake_s=0.05, pool=PoolConfig(headroom_tokens=0, drain_timeout_s=30))
    worker = cluster.workers["decode-1"]
    for number in range(4):
        cluster.router.send(f"a-{number}", prompt_of(40, number), 60)
    await assert_eventually(lambda: worker.engine.stats.running > 0, 5.0, "it works")
    worker.runtime.drain(30.0)
    worker.runtime.rest(asleep=True)
    cluster.tell(decode_1=WorkerState.DRAINING)
    await cluster.router.finished(*(f"a-{number}" for number in range(4)))
    assert not worker.runtime.asleep
    await assert_eventually(lambda: worker.runtime.idle, 5.0, "it is idle")
    worker.runtime.rest(asleep=True)
    await assert_eventually(lambda: worker.runtime.asleep, 5.0, "it sleeps")
    cluster.directory.tell([other.card for other in cluster.alive if other is not worker])
    await assert_eventually(lambda: "decode-1" not in roles(cluster), 5.0, "the router does not see it")
    cluster.router.send("b", prompt_of(40, 5), 10)
    await cluster.router.finished("b")
    worker.runtime.rest(asleep=False)
    await assert_eventually(lambda: not worker.runtime.asleep, 5.0, "it is awake")
    assert worker.runtime.draining_s is None
    cluster.tell()
    await cluster.all_up()
    for number in range(4):
        cluster.router.send(f"c-{number}", prompt_of(40, number), 60)
    await assert_eventually(lambda: worker.engine.stats.running > 0, 5.0, "it works again")
    await cluster.router.finished(*(f"c-{number}" for number in range(4)))
    assert [cluster.router.tokens(f"c-{number}") for number in range(4)] == [cluster.router.tokens(f"a-{number}") for number in range(4)]
