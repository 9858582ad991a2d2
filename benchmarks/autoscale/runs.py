"""Runs scenes side by side, counts what came out, and remembers it."""

from __future__ import annotations

import gc
import hashlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec

from autoscaler.plan import Add, Plan, PoolReport
from benchmarks import digest
from benchmarks.autoscale.fleet import OBJECTIVE, Setup, make, spec
from benchmarks.autoscale.scenarios import SCENARIOS
from core.worker import Role
from simulation.elastic import ElasticCluster, Pace
from simulation.goodput import Objective

_EVERY = 6
"""Plans between two points of a plot: half a minute."""
Course = list[tuple[float, float]]
"""Minutes, and something then."""


class Run(msgspec.Struct, frozen=True, order=True):
    """One simulation, named completely."""

    scenario: str
    setup: Setup
    seed: int = 1
    start_up_s: float = Pace().start_up_s
    until_s: float | None = None
    """Later requests are not offered."""

    @property
    def key(self) -> str:
        """A name for its file. All code is part of it, so that outcomes of one version are never held against those of another."""
        return hashlib.sha256(msgspec.json.encode(self) + code().encode()).hexdigest()[:20]


class Found(msgspec.Struct, frozen=True):
    """What came out."""

    attained: float
    """Share of all offered requests whose TTFT and TPOT were as promised."""
    refused: float
    worker_hours: float
    """From when workers are asked for to when they are gone, until the last arrival."""
    actions: dict[str, int]
    """Workers relabelled, added and drained."""
    workers: Course
    """Ready and starting ones."""
    wanted: Course
    """What the plan wanted for its forecast."""
    demand: Course = []
    """Prompt tokens to compute per second."""
    forecast: Course = []
    """The same as it was expected for that time, margin included."""


class Runs:
    """``of`` is kept in a folder, one file per run: what was stopped goes on where it was. ``fresh`` ignores what is there."""

    def __init__(self, folder: Path, processes: int, *, fresh: bool = False) -> None:
        """With 0 processes, in this one."""
        self._folder = folder
        self._fresh = fresh
        self._known: dict[Run, Found] = {}
        self._pool = ProcessPoolExecutor(processes, initializer=_prepare) if processes else None
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, runs: Iterable[Run]) -> dict[Run, Found]:
        """What came of each, computed where it is not known."""
        wanted = list(dict.fromkeys(runs))
        missing = [run for run in wanted if not self._is_known(run)]
        results = map(simulate, missing) if self._pool is None else self._pool.map(simulate, missing)
        for run, found in zip(missing, results, strict=True):
            self._known[run] = found
            (self._folder / f"{run.key}.json").write_bytes(msgspec.json.encode(found))
            say(f"{run.scenario} {run.setup.name}, seed {run.seed}: {found.attained:.1%} in {found.worker_hours:.2f} worker-hours")
        return {run: self._known[run] for run in wanted}

    def close(self) -> None:
        """Ends the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _is_known(self, run: Run) -> bool:
        file = self._folder / f"{run.key}.json"
        if run not in self._known and not self._fresh and file.exists():
            self._known[run] = msgspec.json.decode(file.read_bytes(), type=Found)
        return run in self._known


def simulate(run: Run) -> Found:
    """To the last answer."""
    trace = SCENARIOS[run.scenario](run.seed)
    if run.until_s is not None:
        trace = replace(trace, requests=[each for each in trace.requests if each.arrival_s < run.until_s])
    cluster = ElasticCluster(spec(run.setup), run.seed, make(run.setup), Pace(start_up_s=run.start_up_s))
    records = cluster.replay(trace)
    objective = Objective(OBJECTIVE.ttft_s, OBJECTIVE.tpot_s)
    until_s = trace.requests[-1].arrival_s
    actions: Counter[str] = Counter()
    for plan in cluster.plans:
        for action in plan.actions:
            actions[type(action).__name__] += action.count if isinstance(action, Add) else 1
    shown = [plan for plan in cluster.plans if plan.at_s <= until_s][::_EVERY]
    if not gc.isenabled():
        gc.collect()
    return Found(
        sum(map(objective.is_met, records)) / len(records),
        sum(bool(record.failure) for record in records) / len(records),
        cluster.worker_seconds(until_s) / 3600,
        dict(actions),
        [(plan.at_s / 60, float(sum(pool.ready + pool.starting for pool in plan.pools))) for plan in shown],
        [(plan.at_s / 60, float(sum(pool.wanted or 0 for pool in plan.pools))) for plan in shown],
        [(at_s / 60, pool.demand_tokens_per_s or 0.0) for at_s, pool in _prefill(shown)],
        [((at_s + (pool.horizon_s or 0.0)) / 60, pool.forecast_tokens_per_s or 0.0) for at_s, pool in _prefill(shown)],
    )


def code() -> str:
    """Of all that is simulated, and with what: another name for every version."""
    return digest.code("autoscaler", *(f"benchmarks/autoscale/{name}.py" for name in ("fleet", "runs", "scenarios")))


def _prefill(plans: Iterable[Plan]) -> list[tuple[float, PoolReport]]:
    """Of those that say something of it."""
    pools = [(plan.at_s, pool) for plan in plans for pool in plan.pools if pool.role is Role.PREFILL]
    return [(at_s, pool) for at_s, pool in pools if pool.demand_tokens_per_s is not None]


def _prepare() -> None:
    """A process that does nothing but simulate."""
    logging.disable(logging.CRITICAL)  # refused requests are counted, not told
    gc.freeze()
    gc.disable()  # next to nothing in a run is circular, and looking for it takes a third of the time


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
