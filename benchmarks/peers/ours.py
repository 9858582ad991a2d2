"""Baton with simulated workers: ``baton up``, whole, under Ray."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.fleet import Fleet
from benchmarks.servers import baton
from simulation.goodput import Objective

_START_S = 120.0


@contextlib.contextmanager
def ours(fleet: Fleet, model: Path, policy: str, objective: Objective) -> Iterator[str]:
    """Gives its URL once every worker can be reached."""
    with baton(fleet.baton_args(model, policy, objective.ttft_s, objective.tpot_s)) as url:
        deadline_s = time.monotonic() + _START_S
        while _ready(url) < fleet.prefill + fleet.decode:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{_ready(url)} workers are ready, and there should be {fleet.prefill + fleet.decode}")
            time.sleep(0.5)
        yield url


def _ready(url: str) -> int:
    with urllib.request.urlopen(f"{url}/v1/baton/workers", timeout=5) as response:
        workers = json.load(response)["workers"]
    return sum(worker["state"] == "ready" for worker in workers)
