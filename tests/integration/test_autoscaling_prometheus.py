"""The autoscaler with a real Prometheus that stops while a worker is about to go: that stays, plans say why, and it goes later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

import httpx
import pytest

from tests.support.cluster_process import Cluster, detached_up, eventually, simulated_args
from tests.support.processes import free_port
from tests.support.prometheus import prometheus, tool
from tests.support.requests_at_a_rate import Clients

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PORT = free_port()
KEPT_S = 10
"""For how long a worker of no use is kept: for longer than Prometheus takes to stop."""
SCALING = {
    "enabled": True,
    "prometheus": f"http://127.0.0.1:{PORT}",
    "interval_s": 0.5,
    "window_s": 10,
    "stale_s": 5,
    "objective": {"ttft_s": 2.0, "tpot_s": 0.2},
    "season_s": None,
    "shrink_after_s": KEPT_S,
    "shrink_every_s": 0.5,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two decode workers, of which one is of no use."""
    tool("prometheus")
    args = simulated_args(prefill=1, decode=2)
    args["autoscaling"] = SCALING
    with detached_up(args) as cluster:
        yield cluster


def plans(cluster: Cluster) -> list[dict[str, Any]]:
    """Of the last minute at least, the newest first."""
    told: list[dict[str, Any]] = httpx.get(f"{cluster.url}/v1/baton/scaling", params={"last": 200}, timeout=30.0).json()["plans"]
    return told


def why_held(cluster: Cluster) -> str:
    """By the newest plan."""
    return next((plan["held"] for plan in plans(cluster)), "there is no plan yet")


def one_is_enough(plan: dict[str, Any]) -> bool:
    """Whether it is known that decode has one too many."""
    return not plan["held"] and [pool["wanted"] for pool in plan["pools"] if pool["role"] == "decode"] == [1]


def lasted_s(row: list[dict[str, Any]]) -> float:
    """From the first of these plans to the last."""
    return float(row[0]["at_s"] - row[-1]["at_s"]) if row else 0.0


def silence(cluster: Cluster) -> list[dict[str, Any]]:
    """The newest plans, as far as they are held."""
    return list(takewhile(lambda plan: plan["held"], plans(cluster)))


async def until(check: Callable[[], object], limit_s: float, what: str) -> None:
    await asyncio.to_thread(eventually, check, limit_s, what)


async def test_prometheus_stops_while_a_worker_is_about_to_go(cluster: Cluster) -> None:
    """Plans are held and name Prometheus for longer than a worker of no use is kept, and it stays. When Prometheus is back it is watched
    for as long anew, and then it goes. Nobody's request fails for any of it."""
    targets = {"url": f"{cluster.url}/v1/baton/targets", "refresh_interval": "1s"}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [{"job_name": "baton", "http_sd_configs": [targets]}]}
    clients = Clients(cluster.url)
    await until(lambda: why_held(cluster).startswith("Prometheus does not answer"), 30.0, "it says that there is no Prometheus")
    before = set(cluster.workers())
    async with clients.coming(2.0, 40, 8):
        with prometheus(config, PORT):
            await until(lambda: one_is_enough(plans(cluster)[0]), 30.0, "it is known that one decode worker is of no use")
        await until(lambda: lasted_s(silence(cluster)) > KEPT_S, 30.0, "plans are held for longer than one of no use is kept")
        silent = silence(cluster)
        assert all("Prometheus" in plan["held"] and not plan["actions"] for plan in silent)
        assert not any(plan["actions"] for plan in plans(cluster))
        assert set(cluster.workers()) == before
        with prometheus(config, PORT):
            await until(lambda: len(cluster.workers("decode")) == 1, 60.0, "the decode worker of no use has gone")
            made = plans(cluster)
            [gone] = [place for place, plan in enumerate(made) if plan["actions"]]
            assert [action["type"] for action in made[gone]["actions"]] == ["Drain"]
            assert lasted_s(list(takewhile(lambda plan: not plan["held"], made[gone:]))) >= KEPT_S
    assert set(cluster.workers()) < before
    assert set(clients.statuses) == {200}
