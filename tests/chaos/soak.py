"""Mixed load for as long as one likes, with a fault every twenty seconds; and whether anything grew meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from tests.chaos import report
from tests.chaos.faults import Blocked, Sigkill, Sigstop
from tests.chaos.footprint import Footprints, Growth, table
from tests.chaos.stage import Stage, Zero, stage_on
from tests.chaos.visitors import Record, Visitors
from tests.support.cluster_process import Cluster, eventually

VISITORS = 12
FAULT_EVERY_S = 20.0
_SAMPLE_S = 5.0
_FAULT_LASTS_S = 4.0
_WARM_UP_S = 25.0
"""A router that has just come has yet to be given its share of requests, and to take memory for them."""
FAULTS = {"SIGKILL": 4, "SIGSTOP": 3, "cut off": 3, "drain": 3, "controller killed": 1, "router killed": 1}
"""By how often, of fifteen, after each once."""
_AGAIN_S = 1.0
"""Where there is nobody to strike: the one before has not been replaced yet."""


@dataclass
class Soak:
    """What a soak came to."""

    lasted_s: float
    faults: Counter[str]
    record: Record
    zero: Zero
    grown: list[Growth]

    def broken(self) -> list[str]:
        """The promises that were not kept, in words."""
        broken = [f"soak: {growth} grew" for growth in self.grown if not growth.is_flat()]
        broken += [f"soak: {error}" for error in self.record.errors]
        if self.record.wrong_tokens:
            broken.append(f"soak: {self.record.wrong_tokens} wrong tokens")
        return broken + [f"soak: {count} {what} left" for what, count in self.zero.held.items()]

    def markdown(self) -> str:
        """For the page."""
        record = self.record
        figures = {
            "requests": record.asked.total(),
            "completed": record.completed,
            "left by their clients": record.left,
            "cut with their router": record.broken,
            "wrong tokens": record.wrong_tokens,
            "errors": len(record.errors),
            "longest gap s": f"{record.longest_gap_s:.1f}",
            "left": sum(self.zero.held.values()),
            "seconds to zero": f"{self.zero.took_s:.1f}",
        }
        struck = ", ".join(f"{count} × {fault}" for fault, count in self.faults.most_common())
        told = [
            f"{self.lasted_s / 60:.0f} minutes, {VISITORS} clients at once, {self.faults.total()} faults: {struck}.",
            "",
            report.table(list(figures), list(figures.values())),
            "",
            "Processes that lived from the second quarter to the last, medians of either:",
            "",
            table(self.grown),
        ]
        return "\n".join(told)


async def _soak(stage: Stage, seconds: float, fault_every_s: float, seed: int) -> Soak:
    await stage.ready()
    footprints, chance = Footprints(stage.cluster.home), random.Random(seed)
    visitors = Visitors(stage.cluster.url, VISITORS, seed)
    began_s = time.monotonic()
    faults: Counter[str] = Counter()
    sampling = asyncio.create_task(_sample(footprints))
    to_come, next_fault_s = _in_turn(chance), began_s + fault_every_s / 2
    fault = next(to_come)
    while (now := time.monotonic()) < began_s + seconds:
        if now < next_fault_s:
            await asyncio.sleep(min(0.2, next_fault_s - now))
        elif await _strike(stage, fault, chance, visitors):
            faults[fault] += 1
            fault, next_fault_s = next(to_come), next_fault_s + fault_every_s
        else:
            next_fault_s = now + _AGAIN_S
    await visitors.close()
    ended_s = time.monotonic()
    sampling.cancel()
    await stage.ready()
    zero = await stage.zero(ended_s)
    quarter_s = seconds / 4
    second, last = (began_s + quarter_s, began_s + 2 * quarter_s), (began_s + 3 * quarter_s, began_s + seconds)
    return Soak(ended_s - began_s, faults, visitors.record, zero, footprints.growth(second, last, second[0] - _WARM_UP_S))


def _in_turn(chance: random.Random) -> Iterator[str]:
    """Each once, then at random for ever."""
    yield from chance.sample(list(FAULTS), len(FAULTS))
    while True:
        yield from chance.choices(list(FAULTS), list(FAULTS.values()))


async def _sample(footprints: Footprints) -> None:
    while True:
        await asyncio.to_thread(footprints.look)
        await asyncio.sleep(_SAMPLE_S)


async def _strike(stage: Stage, fault: str, chance: random.Random, visitors: Visitors) -> bool:
    """Does one thing to somebody. False where nobody suitable is there: the one before has not been replaced yet."""
    cast = stage.cast
    await cast.find_doors()
    if fault == "router killed":
        if len(cast.doors) < stage.cluster.routers:
            return False  # never the last one
        visitors.routers_killed_at_s.append(time.monotonic())
        os.kill(chance.choice(cast.doors).pid, signal.SIGKILL)
        return True
    if fault == "controller killed":
        controllers = await asyncio.to_thread(cast.controllers)
        for process in controllers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return bool(controllers)
    pools = [list((await cast.workers(role)).values()) for role in ("prefill", "decode")]
    candidates = [worker for pool in pools if len(pool) > 1 for worker in pool]  # of two, one stays: that is what a pool is for
    if not candidates:
        return False
    worker = chance.choice(candidates)
    if fault == "SIGKILL":
        with Sigkill(worker["pid"]):
            return True
    if fault == "drain":
        os.kill(worker["pid"], signal.SIGTERM)
        return True
    lasting = Sigstop(worker["pid"]) if fault == "SIGSTOP" else Blocked(cast.data_plane(worker, [door.pid for door in cast.doors]))
    with lasting:
        await asyncio.sleep(_FAULT_LASTS_S)
    return True


def soak(cluster: Cluster, seconds: float, fault_every_s: float = FAULT_EVERY_S, seed: int = 1) -> Soak:
    """Plays it on a running cluster, which has all its workers again at the end."""

    async def play() -> Soak:
        async with stage_on(cluster) as stage:
            return await _soak(stage, seconds, fault_every_s, seed)

    eventually(cluster.all_ready, 60.0, "every router reaches every worker")
    return asyncio.run(play())
