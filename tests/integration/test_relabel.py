"""Workers that change pools, and workers that sleep, under real Ray with simulated engines; nothing is restarted, and nobody notices.

Two prefill and two decode workers. On the way out of every test nothing is held, and all wanted workers are ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import httpx
import psutil
import pytest

from tests.chaos.oracle import asks
from tests.chaos.streams import Crowd, Stream
from tests.support.cluster_process import Cluster, Home, detached_up, eventually, simulated_args
from tests.support.controller_calls import ControllerCalls, calling

pytestmark = pytest.mark.integration

_CONTROLLER = "ray::ServeReplica:baton:Controller"
STEP_S = 0.02


def args() -> dict[str, Any]:
    """Leases that end, and engines that can sleep."""
    made = simulated_args(prefill=2, decode=2, step_s=STEP_S, wake_s=0.5)
    made["kv_transfer"]["lease_s"] = 5
    return made


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with detached_up(args()) as cluster:
        eventually(cluster.all_ready, 30.0, "every router reaches every worker")
        yield cluster


@pytest.fixture(scope="module")
def call(running: Cluster) -> Iterator[ControllerCalls]:
    with calling(running.home.env) as calls:
        yield calls


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    yield running
    eventually(running.all_ready, 60.0, "all workers are ready")
    eventually(lambda: not running.held(), 10.0, "nothing is held")


@pytest.fixture
async def load(cluster: Cluster) -> AsyncIterator[Load]:
    load = Load(cluster)
    yield load
    await load.close()


class Load:
    """Streams whose every token is known beforehand. Nothing may go wrong with any of them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._crowd = Crowd(cluster.url)
        self._scene = 0

    def begin(self, count: int, prompt_tokens: int = 200, output_tokens: int = 100) -> list[Stream]:
        """So many at once."""
        self._scene += 1
        return self._crowd.open(asks(f"relabel{id(self)}-{self._scene}", count, prompt_tokens, output_tokens))

    async def under_way(self, streams: Sequence[Stream]) -> None:
        """Each has some tokens of its decode worker, and none is done."""
        await until(lambda: all(len(stream.tokens) > 3 or stream.ended_s for stream in streams), 20.0, "every stream has begun")
        assert not [stream for stream in streams if stream.ended_s]

    async def right(self, streams: Sequence[Stream]) -> list[dict[str, Any]]:
        """Waits for their ends; every one has every token, and its timeline says that it was never taken from a worker."""
        await self._crowd.ended(streams, 60.0)
        assert [(stream.fault, stream.wrong_tokens) for stream in streams] == [(None, 0)] * len(streams)
        timelines = [self._cluster.timeline(_id(stream))[0] for stream in streams]
        assert [(timeline["losses"], timeline["resumes"]) for timeline in timelines] == [(0, 0)] * len(streams)
        return timelines

    async def close(self) -> None:
        await self._crowd.close()


def _id(stream: Stream) -> str:
    return f"cmpl-{stream.ask.name}"


async def until(check: Callable[[], object], limit_s: float, what: str) -> None:
    await asyncio.to_thread(eventually, check, limit_s, what)


def seen(cluster: Cluster, worker: str) -> set[str | None]:
    """The roles in which routers see a worker; None: one does not see it."""
    return {
        next((known["role"] for known in router["workers"] if known["worker"] == worker), None)
        for router in cluster.from_each_router("/workers")
    }


def told(cluster: Cluster, worker: str) -> dict[str, Any] | None:
    """What the controller says of a worker, whatever its state."""
    try:
        return next((known for known in cluster.status()["workers"] if known["worker"] == worker), None)
    except httpx.HTTPError:
        return {}  # no controller answers


async def relabel(cluster: Cluster, worker: str, role: str) -> None:
    """As a user does it; returns when every router has heard."""
    done = await asyncio.to_thread(cluster.home.baton, "relabel", worker, role)
    assert (done.returncode, "done: " in done.stderr) == (0, True), done.stderr
    await until(lambda: seen(cluster, worker) == {role}, 10.0, "the routers know")


def processes(home: Home) -> set[int]:
    return {process.pid for process in home.titled("ray::WorkerActor")}


@pytest.mark.parametrize(("was", "role"), [("prefill", "decode"), ("decode", "prefill")])
async def test_a_worker_changes_pools_under_load(cluster: Cluster, load: Load, was: str, role: str) -> None:
    """What runs ends where it is, kept prompts are still read, and what comes later finds the worker in its new pool; then back."""
    before, alive = cluster.workers(), processes(cluster.home)
    worker = sorted(cluster.workers(was))[0]
    for number, now in enumerate((role, was)):
        running = load.begin(12)
        await load.under_way(running)
        await relabel(cluster, worker, now)
        later = load.begin(12, output_tokens=10)
        await load.right(running)
        timelines = await load.right(later)
        assert all(timeline["was_split"] for timeline in timelines)
        part = {"prefill": "prefill_worker", "decode": "decode_worker"}
        assert worker in {timeline[part[now]] for timeline in timelines}
        assert worker not in {timeline[part[role if number else was]] for timeline in timelines}
    same = ("pid", "epoch", "restarts", "role", "address")
    after = cluster.workers()
    assert {name: [known[key] for key in same] for name, known in after.items()} == {
        name: [known[key] for key in same] for name, known in before.items()
    }
    assert processes(cluster.home) == alive


async def test_the_role_outlives_the_controller(cluster: Cluster, load: Load, call: ControllerCalls) -> None:
    """Killed when it has just relabelled a worker: the next one finds it in its new pool, and both pools as large as they should be."""
    before = cluster.workers()
    worker = sorted(cluster.workers("prefill"))[0]
    streams = load.begin(12)
    await load.under_way(streams)
    [old] = cluster.home.titled(_CONTROLLER)
    assert await asyncio.to_thread(call, "relabel", worker, "decode") is None
    old.kill()
    await until(lambda: [p for p in cluster.home.titled(_CONTROLLER) if p.pid != old.pid], 60.0, "Serve has started another one")
    await load.right(streams)
    await until(cluster.all_ready, 60.0, "the new controller answers")
    assert cluster.status()["wanted"] == {"prefill": 1, "decode": 3}
    assert {name: known["pid"] for name, known in cluster.workers().items()} == {name: known["pid"] for name, known in before.items()}
    assert seen(cluster, worker) == {"decode"}
    await relabel(cluster, worker, "prefill")


async def test_what_cannot_be_done_is_said(cluster: Cluster, call: ControllerCalls) -> None:
    """And changes nothing; a role that a worker has already is no mistake."""
    worker = sorted(cluster.workers("prefill"))[0]
    failed = await asyncio.to_thread(cluster.home.baton, "relabel", "nobody", "decode")
    assert (failed.returncode, "nobody cannot become a decode worker: there is no such worker" in failed.stderr) == (1, True)
    assert await asyncio.to_thread(call, "wake", worker, "decode") == f"{worker} cannot wake as a decode worker: it is ready, not sleeping"
    assert await asyncio.to_thread(call, "sleep", "nobody") == "nobody cannot sleep: there is no such worker"
    assert await asyncio.to_thread(call, "relabel", worker, "prefill") is None
    assert cluster.status()["wanted"] == {"prefill": 2, "decode": 2}


async def test_a_worker_sleeps_and_wakes_as_another(cluster: Cluster, load: Load, call: ControllerCalls) -> None:
    """It ends what it has first; no router sees it then, and nobody takes its place; it wakes in the same process, in the other pool."""
    alive = processes(cluster.home)
    worker = sorted(cluster.workers("decode"))[0]
    streams = load.begin(12)
    await load.under_way(streams)
    assert await asyncio.to_thread(call, "sleep", worker) is None
    await load.right(streams)
    await until(lambda: (told(cluster, worker) or {}).get("state") == "sleeping", 30.0, "it sleeps")
    await until(lambda: seen(cluster, worker) == {None}, 10.0, "no router sees it")
    assert cluster.status()["wanted"] == {"prefill": 2, "decode": 1}
    streams = load.begin(6)
    await load.under_way(streams)
    assert await asyncio.to_thread(call, "wake", worker, "prefill") is None
    await until(lambda: seen(cluster, worker) == {"prefill"}, 30.0, "it serves")
    await load.right(streams)
    timelines = await load.right(load.begin(12, output_tokens=10))
    assert worker in {timeline["prefill_worker"] for timeline in timelines}
    assert processes(cluster.home) == alive
    await relabel(cluster, worker, "decode")
    assert cluster.status()["wanted"] == {"prefill": 2, "decode": 2}


async def test_who_dies_asleep_is_forgotten(cluster: Cluster, load: Load, call: ControllerCalls) -> None:
    """A new controller knows that it sleeps; it is not missed, and nobody takes its place. The last test: its pool is smaller then."""
    worker = sorted(cluster.workers("decode"))[0]
    assert await asyncio.to_thread(call, "sleep", worker) is None
    await until(lambda: (told(cluster, worker) or {}).get("state") == "sleeping", 30.0, "it sleeps")
    [old] = cluster.home.titled(_CONTROLLER)
    old.kill()
    await until(lambda: [p for p in cluster.home.titled(_CONTROLLER) if p.pid != old.pid], 60.0, "Serve has started another one")
    await until(lambda: (told(cluster, worker) or {}).get("state") == "sleeping", 60.0, "the new controller has found it asleep")
    known = told(cluster, worker)
    assert known is not None
    psutil.Process(known["pid"]).kill()
    await until(lambda: told(cluster, worker) is None, 30.0, "it is forgotten")
    await load.right(load.begin(6, output_tokens=10))
    status = cluster.status()
    assert (status["wanted"], len(status["workers"])) == ({"prefill": 2, "decode": 1}, 3)
