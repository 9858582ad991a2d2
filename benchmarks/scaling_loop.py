"""How long the autoscaler's loop takes over a thousand workers: ``python -m benchmarks.scaling_loop``.

All of a turn that is the controller's own: what ten routers told (each of a thousand workers) is parsed and counted, signals are built from
the records and reports of a thousand workers, a plan is made, put into words and written down. Not in it: waiting for the network. What the
controller's event loop is held up by is what is not done on a thread: everything but the parsing and the plan.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections import defaultdict
from collections.abc import Mapping

import msgspec

from autoscaler.policy import Objective, PoolLimits, ScalerLimits, ScalerPolicy
from autoscaler.scaler import BatonScaler
from autoscaler.seasonal import load
from benchmarks.scaler import FACTS, STEP, history
from cluster.lifecycle import WorkerRecord
from cluster.scaling import Turn
from cluster.scaling_memory import ScalingMemory
from cluster.signals.direct import DirectSource
from cluster.signals.scrape import parsed
from cluster.signals.workers import worker_signals
from cluster.spec import WorkerReport
from core.ids import Epoch, RouterId, WorkerId
from core.step_model import StepModel
from core.worker import Role, WorkerCard, WorkerLoad, WorkerState
from tests.support.counting_router import CountingRouter

WORKERS, ROUTERS, TURNS = 1000, 10, 100
TARGET_MS = 50.0


def fleet(rng: random.Random) -> tuple[list[WorkerRecord], dict[WorkerId, WorkerReport]]:
    """A quarter of them prefill."""
    records: list[WorkerRecord] = []
    reports: dict[WorkerId, WorkerReport] = {}
    for number in range(WORKERS):
        role, name = Role.PREFILL if number % 4 == 0 else Role.DECODE, WorkerId(f"w{number}")
        step = StepModel(*(term * rng.uniform(0.9, 1.1) for term in msgspec.structs.astuple(STEP)))
        card = WorkerCard(name, Epoch(1), role, WorkerState.READY, "tcp://h:1", "k" * 40, FACTS)
        records.append(WorkerRecord(name, role, Epoch(1), "today", 0.0, WorkerState.READY, card=card, ready_after_s=90.0))
        reports[name] = WorkerReport("ready", card=card, load=WorkerLoad(running=50, step=step), measured=step)
    return records, reports


def routers(records: list[WorkerRecord]) -> Mapping[str, CountingRouter]:
    """Each has given some prompts to every worker: what it tells of each is most of what there is to be read."""
    made = {f"router-{number}": CountingRouter() for number in range(ROUTERS)}
    for router in made.values():
        router.requests, router.decoding = 2500, 2000
        for record in records:
            router.tally.prompt_begun(record.worker, record.role, 4000, 1000)
    return made


async def main() -> None:
    """Prints a table."""
    load()
    records, reports = fleet(random.Random(7))
    told = routers(records)
    addresses = {RouterId(name): name for name in told}

    async def fetch(address: str) -> str:
        return expositions[address]

    wanted = {Role.PREFILL: WORKERS // 4, Role.DECODE: WORKERS - WORKERS // 4}
    source = DirectSource(lambda: addresses, 60.0, fetch, lambda: now_s)
    scaler = BatonScaler(ScalerLimits(PoolLimits(1, 2000), PoolLimits(1, 2000), 1500), ScalerPolicy(objective=Objective(2.0, 0.025)))
    memory = ScalingMemory(scaler)
    now_s = 1_728_000_000.0
    state = msgspec.structs.replace(scaler.first(), prefill=history(3000.0, now_s), decode=history(300.0, now_s))
    gc.collect()
    gc.freeze()
    times: dict[str, list[float]] = defaultdict(list)

    def lap(what: str, since_s: float) -> float:
        at_s = time.process_time()
        times[what].append((at_s - since_s) * 1000)
        return at_s

    for _ in range(TURNS):
        now_s += 2.0
        for router in told.values():
            router.serve(200, prompt_tokens=4000, output_tokens=300, cached_tokens=1000)
        expositions = {name: router.exposition for name, router in told.items()}
        began_s = at_s = time.process_time()
        parsed(expositions["router-0"])
        at_s = lap("parsing one router's exposition (thread)", at_s)
        seen = await source.read()
        at_s = lap(f"reading {ROUTERS} routers, parsing included", at_s)
        seen = msgspec.structs.replace(
            seen, workers=worker_signals(records, reports, wanted, lambda record: record.spec_hash != "today", set(), now_s)
        )
        at_s = lap("signals of workers from reports", at_s)
        plan, state = scaler.plan(seen, state, now_s)
        at_s = lap("the plan (thread)", at_s)
        msgspec.json.encode(Turn(plan, seen, 0.0).as_dict())
        memory.written(state)
        at_s = lap("putting it into words and writing it down", at_s)
        times["signals of workers, plan, words"].append(sum(times[what][-1] for what in list(times)[2:5]))
        times["all"].append((at_s - began_s) * 1000 - times["parsing one router's exposition (thread)"][-1])
    print(f"{WORKERS} workers, {ROUTERS} routers, target {TARGET_MS:g} ms; CPU milliseconds of the process")
    for what, taken in times.items():
        taken.sort()
        print(f"  {what}: p50 {taken[len(taken) // 2]:.1f}, at most {taken[-1]:.1f}")
    print(plan.text)


if __name__ == "__main__":
    asyncio.run(main())
