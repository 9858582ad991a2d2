"""The autoscaler with a real Prometheus that stops in the middle: it holds, says so, and goes on when that is back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.cluster_process import Cluster, detached_up, eventually, simulated_args
from tests.support.processes import free_port
from tests.support.prometheus import prometheus, tool
from tests.support.requests_at_a_rate import Clients

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PORT = free_port()
SCALING = {
    "enabled": True,
    "prometheus": f"http://127.0.0.1:{PORT}",
    "interval_s": 0.5,
    "window_s": 10,
    "stale_s": 5,
    "objective": {"ttft_s": 2.0, "tpot_s": 0.2},
    "season_s": None,
    "shrink_after_s": 1,
    "shrink_every_s": 0.5,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two decode workers, of which one would go at once if a plan were made."""
    tool("prometheus")
    args = simulated_args(prefill=1, decode=2)
    args["autoscaling"] = SCALING
    with detached_up(args) as cluster:
        yield cluster


def told(cluster: Cluster) -> dict[str, Any]:
    answer = httpx.get(f"{cluster.url}/v1/baton/scaling", timeout=30.0).json()
    return {**answer, **(answer["plans"][0] if answer["plans"] else {"held": "not yet", "inputs": {}})}


async def until(check: Callable[[], object], limit_s: float, what: str) -> None:
    await asyncio.to_thread(eventually, check, limit_s, what)


async def test_prometheus_stops_in_the_middle(cluster: Cluster) -> None:
    """Before it runs, and after it has stopped, plans are held and name it, and nobody comes or goes; between and after that they are made
    from what it knows. Nobody's request fails for it."""
    targets = {"url": f"{cluster.url}/v1/baton/targets", "refresh_interval": "1s"}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [{"job_name": "baton", "http_sd_configs": [targets]}]}
    clients = Clients(cluster.url)
    await until(lambda: told(cluster)["held"].startswith("Prometheus does not answer"), 30.0, "it says that there is no Prometheus")
    assert told(cluster)["wanted"] == {"prefill": 1, "decode": 2}
    async with clients.coming(2.0, 40, 8):
        with prometheus(config, PORT):
            await until(lambda: not told(cluster)["held"], 30.0, "there are numbers")
            await until(lambda: told(cluster)["inputs"].get("output_tokens", {}).get("value", 0) > 4, 30.0, "also of answers")
            await until(lambda: len(cluster.workers("decode")) == 1, 30.0, "the decode worker of no use has gone")
        await until(lambda: "Prometheus" in told(cluster)["held"], 30.0, "it says that Prometheus is gone")
        before = set(cluster.workers())
        with prometheus(config, PORT):
            await until(lambda: not told(cluster)["held"], 30.0, "it goes on")
        assert set(cluster.workers()) == before
    assert set(clients.statuses) == {200}
