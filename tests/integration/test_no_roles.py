"""No roles, under real Ray with simulated engines: ``prefill.count: 0``, and two workers that each do all of a request."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.cluster_process import MODEL, Cluster, cluster_up, eventually

pytestmark = pytest.mark.integration


def complete(cluster: Cluster, tokens: int) -> Any:
    asked = {"model": MODEL, "prompt": "One runner has the baton all the way.", "max_tokens": tokens, "temperature": 0.0}
    answer = httpx.post(f"{cluster.url}/v1/completions", json=asked, timeout=60.0)
    answer.raise_for_status()
    return answer.json()


def test_each_worker_does_all_of_a_request() -> None:
    """Nobody is handed over, none is missed, and the one that dies in the middle is replaced and its answers go on elsewhere."""
    with cluster_up(prefill=0, decode=2, routers=1, step_s=0.02) as cluster:
        eventually(cluster.all_ready, 60.0, "both workers are reached")
        workers = cluster.workers("decode")
        assert set(cluster.workers()) == set(workers)
        assert len(workers) == 2
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda _: complete(cluster, 20), range(8)))
            assert [answer["usage"]["completion_tokens"] for answer in answers] == [20] * 8
            served = [cluster.timeline(answer["id"])[0] for answer in answers]
            assert all(timeline["prefill_worker"] == timeline["decode_worker"] for timeline in served)
            assert {timeline["decode_worker"] for timeline in served} == set(workers)
            long = [clients.submit(complete, cluster, 300) for _ in range(6)]
            eventually(lambda: all(worker["running"] for worker in cluster.workers().values()), 30.0, "both have some")
            os.kill(next(iter(workers.values()))["pid"], signal.SIGKILL)
            assert [answer.result()["usage"]["completion_tokens"] for answer in long] == [300] * 6
        eventually(cluster.all_ready, 60.0, "there are two again")
        eventually(lambda: not cluster.held(), 30.0, "nothing is held")
