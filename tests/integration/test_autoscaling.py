"""The autoscaler on a running cluster, real Ray and real clock: a burst, limits, a controller that is killed while workers
start, while one drains and while there is nothing to do, and back; to nothing, and back.

One prefill and two decode workers to begin with, simulated, and so slow that a few requests a second keep them busy: what is tested is not
how fast this machine is. The controller asks the router itself. Numbers are over ten seconds, and workers go fifteen seconds after they are
of no use any more; the last ones when nobody has asked for anything for forty seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.cluster_process import MODEL, Cluster, detached_up, eventually, simulated_args
from tests.support.requests_at_a_rate import Clients
from tests.support.scaled_cluster import scaling_args, slowed

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CONTROLLER = "ray::ServeReplica:baton:Controller"
WORKERS = ("ray::WorkerActor", "ray::baton/")
"""While one is asked something its title has its name."""
PROMPT_TOKENS = 200
"""0.8 s of a prefill worker."""
PER_S = 3.0
"""Requests per second, with such prompts two and a half workers' worth; with prompts of twice the length more than there may be."""
LONG = 64
"""Tokens of an answer; so many requests a second are five decode workers' worth of them."""
VERY_LONG = 900
"""A minute and a half of two at once: longer than it takes to see that a decode worker is of no use, and the controller to come back."""
ONLY_ONE = 1 / 600
"""Requests per second, in a test that does not last so long."""
SCALING = scaling_args(least=0, most_prefill=3, most_decode=2, zero_after_s=40, relabel_rest_s=5, shrink_after_s=15, shrink_every_s=0.5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    args = slowed(simulated_args(prefill=1, decode=2))
    args["autoscaling"] = SCALING
    with detached_up(args) as cluster:
        eventually(cluster.all_ready, 30.0, "the router reaches every worker")
        yield cluster


def told(cluster: Cluster, last: int = 1) -> dict[str, Any]:
    """What the router says of scaling; nothing while the controller is away."""
    answer = httpx.get(f"{cluster.url}/v1/baton/scaling", params={"last": last}, timeout=30.0)
    return answer.json() if answer.status_code == 200 else {"plans": []}


def newest(cluster: Cluster) -> dict[str, Any]:
    """The newest plan; an empty one where there is none yet."""
    plans = told(cluster)["plans"]
    return plans[0] if plans else {"held": "none", "actions": [], "pools": [], "warnings": [], "inputs": {}}


def counts(cluster: Cluster) -> dict[str, int]:
    """Ready workers by role."""
    try:
        return dict(Counter(worker["role"] for worker in cluster.workers().values()))
    except httpx.HTTPError:
        return {}


def did(plan: dict[str, Any], kind: str, role: str = "") -> bool:
    return any(action["type"] == kind and role in ("", action["role"]) for action in plan["actions"])


def ready(plan: dict[str, Any]) -> dict[str, int]:
    """Workers of each role when it was made."""
    return {pool["role"]: pool["ready"] for pool in plan["pools"]}


def limits(plan: dict[str, Any]) -> dict[str, str]:
    """By role, the limit that its target was held to."""
    return {pool["role"]: clamp for pool in plan["pools"] for clamp in pool["clamps"] if clamp.startswith("at most")}


def acted(cluster: Cluster, kind: str, role: str = "") -> bool:
    """Whether any of the newest plans did such a thing."""
    return any(did(plan, kind, role) for plan in told(cluster, 200)["plans"])


def in_state(cluster: Cluster, state: str, role: str) -> list[dict[str, Any]]:
    """Such workers; none while the controller is away."""
    try:
        rows = cluster.status()["workers"]
    except httpx.HTTPError:
        return []
    return [row for row in rows if (row["state"], row["role"]) == (state, role)]


def start_s(plan: dict[str, Any]) -> float:
    """What a decode worker takes to start, as the scaler has seen it."""
    [took_s] = [pool["horizon_s"] for pool in plan["pools"] if pool["role"] == "decode"]
    return float(took_s)


def processes(cluster: Cluster) -> set[int]:
    """Of workers, whatever the controller knows of them."""
    return {process.pid for title in WORKERS for process in cluster.home.titled(title)}


async def next_controller(cluster: Cluster) -> None:
    """Kills the one there is; returns when another one plans."""
    [old] = cluster.home.titled(CONTROLLER)
    old.kill()
    await until(lambda: [p for p in cluster.home.titled(CONTROLLER) if p.pid != old.pid], 30.0, "Serve starts another")
    await until(lambda: told(cluster)["plans"], 60.0, "it plans")


async def until(check: Callable[[], object], limit_s: float, what: str) -> None:
    await asyncio.to_thread(eventually, check, limit_s, what)


async def test_a_burst_and_back(cluster: Cluster) -> None:
    """Long answers need two decode workers; then long prompts come. A decode worker is relabelled, and has its new role when the next
    plan is made; then one is started. When all is over they go again. No request fails, and nobody who stayed was restarted."""
    clients = Clients(cluster.url)
    async with clients.coming(1.0, PROMPT_TOKENS // 8, LONG):
        await until(lambda: newest(cluster)["held"] == "" and counts(cluster) == {"prefill": 1, "decode": 2}, 90.0, "decode has two")
        before = cluster.workers()
    async with clients.coming(PER_S, PROMPT_TOKENS, 4):
        await until(lambda: acted(cluster, "Relabel"), 30.0, "a worker changes its role")
        await until(lambda: acted(cluster, "Add", "prefill"), 30.0, "prefill workers are started")
        await until(lambda: counts(cluster).get("prefill") == 3, 90.0, "prefill is as large as it may be")
        plans = told(cluster, 200)["plans"]
    await until(lambda: counts(cluster) == {"prefill": 1, "decode": 1}, 90.0, "all that were of no use have gone")
    assert set(clients.statuses) == {200}
    first = max(place for place, plan in enumerate(plans) if did(plan, "Relabel"))
    moved, after = ready(plans[first]), ready(plans[first - 1])
    assert after == {"prefill": moved["prefill"] + 1, "decode": moved["decode"] - 1}
    for name, worker in cluster.workers().items():
        if name in before:
            assert (worker["pid"], worker["epoch"]) == (before[name]["pid"], before[name]["epoch"])


async def test_the_controller_is_killed_while_workers_start(cluster: Cluster) -> None:
    """The next one wants as many, though the configuration says others, and there are as many in the end: those that were starting are
    nobody's second, and who was ready was not restarted. The scaler knows what it knew, and goes on. No request fails."""
    clients = Clients(cluster.url)
    async with clients.coming(PER_S, PROMPT_TOKENS, 4):
        await until(lambda: told(cluster)["wanted"]["prefill"] == 3, 60.0, "prefill is to be as large as it may be")
        await until(lambda: in_state(cluster, "starting", "prefill"), 10.0, "one starts")
        before, took_s = cluster.workers(), start_s(newest(cluster))
        await next_controller(cluster)
        assert told(cluster)["wanted"]["prefill"] == 3
        await until(lambda: counts(cluster).get("prefill") == 3, 60.0, "they are there")
        await until(lambda: not newest(cluster)["held"], 30.0, "it has numbers again")
        now = cluster.workers()
        assert {name: now[name]["pid"] for name in before} == {name: worker["pid"] for name, worker in before.items()}
        await until(lambda: len(processes(cluster)) == len(now), 30.0, "and no others")
        assert start_s(newest(cluster)) == took_s
    assert set(clients.statuses) == {200}


async def test_both_pools_at_their_limits(cluster: Cluster) -> None:
    """More is asked than any number of workers that may be started could do: that is said, and not chased. Nobody gets an error for it."""
    clients = Clients(cluster.url)
    async with clients.coming(PER_S, 2 * PROMPT_TOKENS, LONG, patient=False):
        await until(lambda: counts(cluster) == {"prefill": 3, "decode": 2}, 90.0, "both pools are as large as they may be")
        await until(lambda: limits(newest(cluster)) == {"prefill": "at most 3", "decode": "at most 2"}, 60.0, "both are told as clamps")
        await until(lambda: any("keeps up with" in warning for warning in newest(cluster)["warnings"]), 30.0, "it says so")
        plans = told(cluster, 3)["plans"]
        assert all({pool["role"]: pool["target"] for pool in plan["pools"]} == {"prefill": 3, "decode": 2} for plan in plans)
        assert not [action for plan in plans for action in plan["actions"] if action["type"] == "Add"]
    assert told(cluster)["wanted"] == {"prefill": 3, "decode": 2}
    assert set(clients.statuses) <= {200, 429}


async def test_the_controller_is_killed_at_rest(cluster: Cluster) -> None:
    """The next one has the same workers and wants the same numbers, though the configuration says others; nobody is drained or doubled;
    the scaler knows what it knew; and goes on."""
    clients = Clients(cluster.url)
    async with clients.coming(PER_S, PROMPT_TOKENS, 4):
        await until(lambda: counts(cluster).get("prefill") == 3, 60.0, "there are more workers than were configured")
        await until(lambda: newest(cluster)["actions"] == [], 30.0, "and for now enough")
        before, wanted = cluster.workers(), told(cluster)["wanted"]
        horizons = {pool["role"]: pool["horizon_s"] for pool in newest(cluster)["pools"]}
        await next_controller(cluster)
        assert told(cluster)["wanted"] == wanted
        await until(lambda: not newest(cluster)["held"], 30.0, "it has numbers again")
        now = cluster.status()["workers"]
        assert {worker["worker"]: worker["pid"] for worker in now} == {name: worker["pid"] for name, worker in before.items()}
        assert {pool["role"]: pool["horizon_s"] for pool in newest(cluster)["pools"]} == horizons
    assert set(clients.statuses) == {200}
    await until(lambda: counts(cluster) == {"prefill": 1, "decode": 1}, 60.0, "all that were of no use have gone")


async def test_the_controller_is_killed_while_a_worker_drains(cluster: Cluster) -> None:
    """The worker that the scaler had sent away goes on draining under the next controller, and goes: nobody else goes in its place, it is
    not called back, and nobody is started for it. What still runs on it is answered whole."""
    clients = Clients(cluster.url)
    async with clients.coming(1.0, PROMPT_TOKENS // 8, LONG):
        await until(lambda: counts(cluster) == {"prefill": 1, "decode": 2}, 90.0, "decode has two")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(clients.coming(ONLY_ONE, PROMPT_TOKENS // 8, VERY_LONG))
        await until(lambda: in_state(cluster, "draining", "decode"), 90.0, "one decode worker is of no use, and drains")
        [going] = in_state(cluster, "draining", "decode")
        before = {worker["worker"]: worker["pid"] for worker in cluster.status()["workers"]}
        await next_controller(cluster)
        [still] = in_state(cluster, "draining", "decode")
        assert (still["worker"], still["pid"], still["epoch"]) == (going["worker"], going["pid"], going["epoch"])
        assert told(cluster)["wanted"]["decode"] == 1
        await until(lambda: going["pid"] not in processes(cluster), 90.0, "it has gone")
        ready = {name: worker["pid"] for name, worker in cluster.workers().items()}
        assert ready == {name: pid for name, pid in before.items() if name != going["worker"]}
        assert processes(cluster) == set(ready.values())
    assert set(clients.statuses) == {200}


def test_the_plans_are_told(cluster: Cluster) -> None:
    """By the router, the newest first, as many as are asked for; and by `baton scaling`, for people."""
    eventually(lambda: newest(cluster)["actions"] == [], 30.0, "the last drain has been told of")
    shown = told(cluster, 3)
    assert (shown["enabled"], shown["config"]["scaler"], len(shown["plans"])) == (True, "baton", 3)
    assert shown["plans"][0]["at_s"] > shown["plans"][1]["at_s"]
    printed = cluster.home.baton("scaling")
    assert printed.returncode == 0, printed.stderr
    assert "told: arrivals_per_s " in printed.stdout
    assert printed.stdout.splitlines()[-1] == "do: nothing"


async def test_to_nothing_and_back(cluster: Cluster) -> None:
    """Nobody asks: both pools end. The next request is held, not refused, while workers start for it, and is answered."""
    await until(lambda: told(cluster).get("wanted") == {"prefill": 0, "decode": 0}, 90.0, "nobody is wanted")
    await until(lambda: all(worker["state"] == "gone" for worker in cluster.status()["workers"]), 30.0, "nobody is there")
    body = {"model": MODEL, "prompt": [10, 7, 7, 7], "max_tokens": 4, "temperature": 0.0}
    async with httpx.AsyncClient(timeout=300.0) as client:
        answer = await client.post(f"{cluster.url}/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 4
    assert acted(cluster, "Add")
    [timeline] = cluster.timeline(answer.json()["id"])
    assert timeline["waited_s"] > 0
