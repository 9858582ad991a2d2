"""How long one turn of the autoscaler takes: ``python -m benchmarks.scaler``.

A thousand workers that have all measured their steps, half of them with a role too many, demand that rises and falls, and four seasons
of history. Shown are ordinary turns and those that close a part of the season, which fit it anew. The library that does so is loaded
before, as whoever runs the loop should. Times are the thread's own, so that who else computes here is not counted.
"""

from __future__ import annotations

import gc
import math
import random
import time

import msgspec

from autoscaler.forecast import Track
from autoscaler.memory import BatonState, PoolMemory
from autoscaler.policy import Objective, PoolLimits, ScalerLimits, ScalerPolicy
from autoscaler.scaler import BatonScaler
from autoscaler.seasonal import load
from autoscaler.series import PARTS, Series
from autoscaler.signals import PoolSignals, Reading, Signals, TrafficSignals, WorkerSignal
from core.ids import WorkerId
from core.step_model import StepModel
from core.worker import EngineFacts, Role

WORKERS = 1000
TARGET_MS = 50.0
TURNS = 1000
DAY_S = 86_400.0
EVERY_S = 10.0
FACTS = EngineFacts(block_size_tokens=128, num_blocks=3200, max_model_len=131_072, max_num_seqs=256, max_num_batched_tokens=2048)
STEP = StepModel(0.004, 1.9e-5, 4.8e-10, 0.0063, 1.2e-5, 4.1e-8)


def workers(rng: random.Random) -> tuple[WorkerSignal, ...]:
    """A quarter of them prefill."""

    def one(number: int) -> WorkerSignal:
        slower = rng.uniform(0.9, 1.1)
        step = StepModel(*(term * slower for term in msgspec.structs.astuple(STEP)))
        role = Role.PREFILL if number % 4 == 0 else Role.DECODE
        return WorkerSignal(WorkerId(f"w{number}"), role, age_s=1e4, facts=FACTS, step=step, warm=True, start_up_s=90.0, running=50)

    return tuple(one(number) for number in range(WORKERS))


def demand(now_s: float) -> float:
    """Requests per second."""
    return 4000 * (1 - 0.6 * math.cos(now_s / DAY_S * 2 * math.pi))


def history(tokens: float, now_s: float) -> PoolMemory:
    """Nearly four seasons."""
    part_s = DAY_S / PARTS
    parts = tuple(demand(now_s - (PARTS * 4 - number) * part_s) * tokens for number in range(PARTS * 4))
    return PoolMemory(Track(Series(parts=parts, part=math.floor(now_s / part_s) - 1, part_sum=1.0, part_count=1)))


def signals(fleet: tuple[WorkerSignal, ...], now_s: float) -> Signals:
    rate = demand(now_s)
    traffic = TrafficSignals(Reading(rate), Reading(rate), Reading(4000.0), Reading(300.0), Reading(0.25))
    return Signals(traffic, PoolSignals(Reading(1e5), Reading(0.5), Reading(300.0)), PoolSignals(running=Reading(rate * 5)), fleet)


def main() -> None:
    """Prints a table."""
    began_s = time.perf_counter()
    load()
    print(f"loading the library: {time.perf_counter() - began_s:.1f} s")
    gc.collect()
    gc.freeze()
    fleet, now_s = workers(random.Random(7)), 20_000 * DAY_S
    bounds = ScalerLimits(PoolLimits(1, 2000), PoolLimits(1, 2000), 1500)
    scaler = BatonScaler(bounds, ScalerPolicy(objective=Objective(2.0, 0.025)))
    state = BatonState(history(3000.0, now_s), history(300.0, now_s))
    ordinary: list[float] = []
    fits: list[float] = []
    for _ in range(TURNS):
        now_s += EVERY_S
        part, told = state.prefill.track.series.part, signals(fleet, now_s)
        began_s = time.thread_time()
        plan, state = scaler.plan(told, state, now_s)
        (ordinary if state.prefill.track.series.part == part else fits).append((time.thread_time() - began_s) * 1000)
        msgspec.json.encode(plan)
    print(f"{WORKERS} workers, target {TARGET_MS:g} ms")
    for what, times in (("ordinary turns", sorted(ordinary)), ("turns that fit the season anew", sorted(fits))):
        print(f"{what}: p50 {times[len(times) // 2]:.1f} ms, at most {times[-1]:.1f} ms ({len(times)})")
    print(plan.text)


if __name__ == "__main__":
    main()
