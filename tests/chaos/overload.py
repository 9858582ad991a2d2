"""Four times the load that can be served, for a minute: who is accepted is served in time, the rest is refused at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import httpx

from tests.chaos import report
from tests.chaos.footprint import Footprints, Growth, table
from tests.chaos.oracle import ask
from tests.chaos.stage import Stage, Zero, stage_on
from tests.chaos.streams import Ask, Crowd, Stream
from tests.support.cluster_process import Cluster, eventually

TTFT_S = 2.0
"""What clients are promised."""
REFUSAL_LIMIT_S = 0.1
TIMES = 4
_PROMPT_TOKENS, _OUTPUT_TOKENS = 1500, 30
"""A prompt takes 0.31 s of a prefill worker: the two do six a second, which the machine underneath does easily."""
_RAMP_STEP_S = 8.0
RAMP = (2, 3, 4, 5, 6, 7, 8)
"""Requests a second."""
_FIRST_S = 4.0
_REPEATS_S = 30.0


@dataclass
class Load:
    """An open-loop run: requests come at their times, whatever became of those before."""

    per_second: float
    streams: list[Stream] = field(default_factory=list)

    def __str__(self) -> str:
        ttft_s = percentile(self.first_tokens_s, 90)
        return f"{self.per_second:g}/s: {len(self.refused)} of {len(self.streams)} refused, TTFT p90 {ttft_s:.2f} s"

    @property
    def accepted(self) -> list[Stream]:
        return [stream for stream in self.streams if not _status(stream)]

    @property
    def refused(self) -> list[Stream]:
        return [stream for stream in self.streams if _status(stream) == 429]

    @property
    def failed(self) -> list[Stream]:
        return [stream for stream in self.streams if stream.fault and _status(stream) != 429]

    @property
    def first_tokens_s(self) -> list[float]:
        return sorted(stream.arrivals[0] - stream.began_s for stream in self.accepted if stream.arrivals)

    @property
    def refusals_s(self) -> list[float]:
        return sorted((stream.ended_s or math.inf) - stream.began_s for stream in self.refused)

    @property
    def is_sustained(self) -> bool:
        """Nobody refused, nobody failed, and nine of ten in time."""
        return not self.refused and not self.failed and percentile(self.first_tokens_s, 90) <= TTFT_S / 2


def promised(name: str) -> Ask:
    """The request of that name."""
    return replace(ask(name, _PROMPT_TOKENS, _OUTPUT_TOKENS), headers={"x-baton-ttft-s": str(TTFT_S)})


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of sorted values; 0 of none."""
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0


def _status(stream: Stream) -> int:
    return int(stream.error.split()[1].rstrip(":")) if stream.error and stream.error.startswith("HTTP ") else 0


@dataclass
class Overload:
    """What it came to."""

    sustained_per_s: float
    ramp: list[Load]
    load: Load
    lasted_s: float
    zero: Zero
    grown: list[Growth]
    restarted: list[str]
    says_when_to_come_back: bool

    def broken(self) -> list[str]:
        """The promises that were not kept, in words; those about time are in ``late``."""
        load = self.load
        broken = [f"overload: {growth} grew" for growth in self.grown if not growth.is_flat()]
        broken += [f"overload: {stream.fault}" for stream in load.failed[:5]] + self.restarted
        if not load.refused:
            broken.append("overload: nobody was refused")
        if not self.says_when_to_come_back:
            broken.append("overload: a refusal without Retry-After")
        return broken + [f"overload: {count} {what} left" for what, count in self.zero.held.items()]

    def late(self) -> list[str]:
        """The promises about time that were not kept. Apart, for on a busy machine they say nothing of Baton."""
        load, late = self.load, []
        if percentile(load.refusals_s, 99) > REFUSAL_LIMIT_S:
            late.append(f"overload: p99 of refusals is {1000 * percentile(load.refusals_s, 99):.0f} ms")
        if percentile(load.first_tokens_s, 90) > TTFT_S:
            late.append(f"overload: p90 of time to first token is {percentile(load.first_tokens_s, 90):.1f} s; {TTFT_S:g} s is promised")
        return late

    def markdown(self) -> str:
        """For the page."""
        load, first, refused = self.load, self.load.first_tokens_s, self.load.refusals_s
        wrong = sum(stream.wrong_tokens for stream in load.streams)
        late = sum(ttft_s > TTFT_S for ttft_s in first)
        figures = {
            "sent": len(load.streams),
            "accepted": len(load.accepted),
            "of those, later than promised": late,
            "TTFT p50 / p90 / p99 s": " / ".join(f"{percentile(first, p):.2f}" for p in (50, 90, 99)),
            "refused": len(load.refused),
            "of those, only after waiting": sum(refusal_s > REFUSAL_LIMIT_S for refusal_s in refused),
            "refusal p50 / p99 ms": " / ".join(f"{1000 * percentile(refused, p):.0f}" for p in (50, 99)),
            "errors": len(load.failed),
            "wrong tokens": wrong,
            "left": sum(self.zero.held.values()),
            "seconds to zero": f"{self.zero.took_s:.1f}",
        }
        return "\n".join(
            [
                f"{self.sustained_per_s:g} requests/s were sustained on a ramp; {load.per_second:g} requests/s were sent for "
                f"{self.lasted_s:.0f} s. The ramp: {'; '.join(map(str, self.ramp))}.",
                "",
                report.table(list(figures), list(figures.values())),
                "",
                "Every process, before the overload and after it:",
                "",
                table(self.grown),
            ]
        )


async def send(stage: Stage, per_second: float, seconds: float, name: str) -> Load:
    """Sends that many a second, evenly, and waits until each has ended."""
    load, crowd = Load(per_second), Crowd(stage.cluster.url)
    asks = [promised(f"{name}-{number:05d}") for number in range(round(per_second * seconds))]
    began_s = time.monotonic()
    for number, asked in enumerate(asks):
        await asyncio.sleep(max(0.0, began_s + number / per_second - time.monotonic()))  # the arrival times are the experiment
        load.streams += crowd.open([asked])
    await crowd.ended(load.streams, 60.0)
    await crowd.close()
    return load


async def _overload(stage: Stage, seconds: float, rates: Sequence[float]) -> Overload:
    await stage.ready()
    ramp: list[Load] = []
    while len(ramp) < len(rates) and (len(ramp) < 2 or ramp[-1].is_sustained or ramp[-2].is_sustained):  # one step may be a bad moment
        ramp.append(await send(stage, rates[len(ramp)], _RAMP_STEP_S, f"ramp{rates[len(ramp)]}"))
    sustained = max((load.per_second for load in ramp if load.is_sustained), default=float(rates[0]))
    await send(stage, TIMES * sustained, _FIRST_S, "first")  # what an overload takes at all is no growth: connections, most of all
    pids = await _pids(stage)
    footprints, began_s = Footprints(stage.cluster.home), time.monotonic()
    footprints.look()
    before = (began_s, time.monotonic())
    sending = asyncio.create_task(send(stage, TIMES * sustained, seconds, "over"))
    await asyncio.sleep(seconds / 2)  # in the middle of it: what a refusal says
    says = await _says_when_to_come_back(stage)
    load = await sending
    ended_s = time.monotonic()
    zero = await stage.zero(ended_s)
    await asyncio.to_thread(footprints.look)
    grown = footprints.growth(before, (ended_s, time.monotonic()))
    restarted = [f"overload: process {pid} has ended" for pid in pids - await _pids(stage)]
    return Overload(sustained, ramp, load, seconds, zero, grown, restarted, says)


async def _says_when_to_come_back(stage: Stage) -> bool:
    """Asks, as all the others do, until refused: the refusal has to have a Retry-After."""
    async with httpx.AsyncClient(timeout=_REPEATS_S) as client:
        for number in range(0, 48, 4):  # each prompt another one: a cached prompt is cheap, and let in
            asks = [promised(f"late-{n}") for n in range(number, number + 4)]
            url = f"{stage.cluster.url}/v1/completions"
            asking = (client.post(url, json={**asked.body, "stream": False}, headers=asked.headers) for asked in asks)
            for answer in await asyncio.gather(*asking):
                if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
                    return int(answer.headers.get("retry-after", 0)) >= 1
    return False


async def _pids(stage: Stage) -> set[int]:
    workers = await stage.cast.workers()
    return {door.pid for door in stage.cast.doors} | {int(worker["pid"]) for worker in workers.values()}


def overload(cluster: Cluster, seconds: float, ramp: Sequence[float] = RAMP) -> Overload:
    """Plays it on a running cluster. What is sustained is looked for among ``ramp``."""

    async def play() -> Overload:
        async with stage_on(cluster) as stage:
            return await _overload(stage, seconds, ramp)

    eventually(cluster.all_ready, 60.0, "every router reaches every worker")
    return asyncio.run(play())
