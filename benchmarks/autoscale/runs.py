"""Runs scenarios side by side, and counts what came out."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

import msgspec

from autoscaler.plan import Add
from benchmarks.autoscale.fleet import OBJECTIVE, Setup, make, spec
from benchmarks.autoscale.scenarios import SCENARIOS
from simulation.elastic import ElasticCluster
from simulation.goodput import Objective

_EVERY = 6
"""Plans between two points of a plot: half a minute."""


class Run(msgspec.Struct, frozen=True):
    """One simulation, named completely."""

    scenario: str
    setup: Setup
    seed: int


class Found(msgspec.Struct, frozen=True):
    """What came out."""

    attained: float
    """Share of all offered requests whose TTFT and TPOT were as promised."""
    refused: float
    worker_hours: float
    """From when workers are asked for to when they are gone, until the last arrival."""
    actions: dict[str, int]
    """Workers relabelled, added and drained."""
    workers: list[tuple[float, float]]
    """Minutes, and ready and starting workers then."""
    wanted: list[tuple[float, float]]
    """Minutes, and what the plan wanted for its forecast."""


def simulate(run: Run) -> Found:
    """To the last answer."""
    cluster = ElasticCluster(spec(run.setup), run.seed, make(run.setup))
    trace = SCENARIOS[run.scenario](run.seed)
    records = cluster.replay(trace)
    objective = Objective(OBJECTIVE.ttft_s, OBJECTIVE.tpot_s)
    until_s = trace.requests[-1].arrival_s
    actions: Counter[str] = Counter()
    for plan in cluster.plans:
        for action in plan.actions:
            actions[type(action).__name__] += action.count if isinstance(action, Add) else 1
    shown = [plan for plan in cluster.plans if plan.at_s <= until_s][::_EVERY]
    return Found(
        sum(map(objective.is_met, records)) / len(records),
        sum(bool(record.failure) for record in records) / len(records),
        cluster.worker_seconds(until_s) / 3600,
        dict(actions),
        [(plan.at_s / 60, float(sum(pool.ready + pool.starting for pool in plan.pools))) for plan in shown],
        [(plan.at_s / 60, float(sum(pool.wanted or 0 for pool in plan.pools))) for plan in shown],
    )


def simulate_all(runs: Iterable[Run], processes: int) -> dict[Run, Found]:
    """Each of them, told of on stderr when it is done."""
    found: dict[Run, Found] = {}
    with ProcessPoolExecutor(processes, initializer=logging.disable) as pool:  # refused requests are counted, not told
        wanted = list(runs)
        for run, outcome in zip(wanted, pool.map(simulate, wanted), strict=True):
            found[run] = outcome
            say(f"{run.scenario} {run.setup.name}: {outcome.attained:.1%} in {outcome.worker_hours:.2f} worker-hours")
    return found


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
