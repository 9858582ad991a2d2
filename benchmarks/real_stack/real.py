"""The real side: ``baton up`` with routers, controller and workers under Ray, loaded over HTTP, part by part."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from pathlib import Path

import msgspec
import psutil

from benchmarks.cpu import us_per_token
from benchmarks.peers.drive import drive
from benchmarks.real_stack.comparison import Comparison
from benchmarks.servers import baton
from deploy.demo_model import VOCAB_SIZE
from simulation.goodput import Outcome, outcome
from simulation.record import Record
from simulation.traces import Trace

_START_S = 180.0


class Measured(msgspec.Struct, frozen=True):
    """One part. Shares are of all the machine's CPU time."""

    outcome: Outcome
    stack_cpu: float
    """Of what is measured, without the client."""
    client_cpu: float
    others_cpu: float
    """Of whatever else ran."""
    cpu_by_process: dict[str, float]
    """The stack's, by kind of process."""


def measure(comparison: Comparison, policy: str, model: Path) -> list[Measured]:
    """One for each rate. Raises RuntimeError when the stack does not come up, or the warm-up fails."""
    warm_up, *parts = comparison.parts
    with baton(comparison.stack(policy, model)) as url:
        _until_ready(url, comparison.prefill + comparison.decode)
        time.sleep(_settle_s(comparison))
        records, *_ = _drive(url, warm_up, comparison)
        if not any(record.is_complete for record in records):
            raise RuntimeError(f"no request of the warm-up was served: {sorted({record.failure for record in records})[:3]}")
        return [_measured(url, part, comparison) for part in parts]


def _settle_s(comparison: Comparison) -> float:
    """Wall seconds in which every worker has told both routers of itself."""
    return 3.0 + 0.6 * comparison.slowdown


def _measured(url: str, part: Trace, comparison: Comparison) -> Measured:
    began_s, idle_s, own_s = time.monotonic(), _idle_s(), time.process_time()
    records, by_process = _drive(url, part, comparison)
    whole_s = (time.monotonic() - began_s) * (psutil.cpu_count() or 1)
    shares = {title: seconds / whole_s for title, seconds in by_process.items()}
    stack, client = sum(shares.values()), (time.process_time() - own_s) / whole_s
    others = max(0.0, 1.0 - (_idle_s() - idle_s) / whole_s - stack - client)
    return Measured(outcome(records, comparison.objective), stack, client, others, shares)


def _idle_s() -> float:
    times = psutil.cpu_times()
    return float(times.idle + times.iowait)


def _drive(url: str, part: Trace, comparison: Comparison) -> tuple[list[Record], dict[str, float]]:
    """Records, and CPU seconds by kind of process."""
    records: list[Record] = []

    def work() -> int:
        records.extend(asyncio.run(drive(url, "demo", part, slowdown=comparison.slowdown, vocab_size=VOCAB_SIZE)))
        return 1_000_000  # so that microseconds per token are seconds

    spent = us_per_token(work)
    return records, dict(spent)


def _until_ready(url: str, workers: int) -> None:
    deadline_s = time.monotonic() + _START_S
    while (ready := _ready(url)) < workers:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{ready} workers are ready, and there should be {workers}")
        time.sleep(0.5)


def _ready(url: str) -> int:
    with urllib.request.urlopen(f"{url}/v1/baton/workers", timeout=5) as response:
        return sum(worker["state"] == "ready" for worker in json.load(response)["workers"])
