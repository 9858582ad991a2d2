"""One cluster on which scene after scene is played, each beginning with everybody there and nothing held."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tests.chaos.cast import Cast
from tests.chaos.report import Row
from tests.chaos.steps import Step, Timeline, named, step_of
from tests.chaos.streams import Crowd, Stream
from tests.support.cluster_process import Cluster

READY_LIMIT_S = 120.0
ZERO_LIMIT_S = 25.0
"""Longer than a lease of ten seconds, a silence of ten seconds, and the news of their end."""
_QUIET_S = 1.0
"""Workers are heard by routers and controller at least twice a second: what is free for longer than that is free."""
_LOOK_S = 0.02
_SLOW_S = 2.0
"""What takes longer to be free deserves a note."""


@dataclass(frozen=True)
class Zero:
    """How long it took until nothing was held, or what still was. ``last`` is what was held the longest."""

    took_s: float
    held: dict[str, int]
    last: dict[str, int]
    running: tuple[str, ...] = ()
    """Timelines of the requests that are still there."""


@dataclass
class Stage:
    """A cluster, its processes, and the clients in front of it."""

    cluster: Cluster
    cast: Cast
    crowd: Crowd

    async def ready(self) -> None:
        """Returns once every process is there and every router reaches every worker. Fails after ``READY_LIMIT_S``."""
        await until(self.cast.complete, READY_LIMIT_S, "every worker is ready, and every router reaches it", every_s=0.2)
        await until(self.cast.all_served, READY_LIMIT_S, "every router is given requests", every_s=0.2)

    async def until_at(self, scene: str, step: Step, count: int, limit_s: float = 30.0) -> list[Timeline]:
        """The timelines of the scene's requests that are at ``step``, as soon as there are ``count``."""
        found: list[Timeline] = []

        async def enough() -> bool:
            found[:] = [t for t in named(await self.cast.timelines(), scene) if step_of(t) is step]
            return len(found) >= count

        await until(enough, limit_s, f"{count} requests of {scene} are {step}")
        return found

    async def zero(self, since_s: float) -> Zero:
        """Waits until nothing has been held for a while, or the time for that is over."""
        deadline = since_s + ZERO_LIMIT_S
        free_since: float | None = None
        last: dict[str, int] = {}
        while True:
            looked_at = time.monotonic()
            held = await self.cast.held()
            last = held or last
            free_since = None if held else (free_since or looked_at)
            if free_since is not None and looked_at - free_since >= _QUIET_S:
                return Zero(max(0.0, free_since - since_s), {}, last)
            if looked_at > deadline and held:
                running = [t for t in await self.cast.timelines() if t["outcome"] == "running"]
                return Zero(looked_at - since_s, held, last, tuple(str(timeline) for timeline in running))
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def stage_on(cluster: Cluster) -> AsyncIterator[Stage]:
    """The stage of a running cluster."""
    cast, crowd = Cast(cluster), Crowd(cluster.url)
    try:
        await cast.find_doors()
        yield Stage(cluster, cast, crowd)
    finally:
        await crowd.close()
        await cast.close()


async def until(check: Callable[[], Awaitable[bool]], limit_s: float, what: str, every_s: float = _LOOK_S) -> None:
    """Returns as soon as ``check`` is true; fails after ``limit_s``, naming ``what``."""
    deadline = time.monotonic() + limit_s
    while not await check():
        assert time.monotonic() < deadline, f"after {limit_s:g} s still not: {what}"
        await asyncio.sleep(every_s)


@dataclass
class Outcome:
    """The streams of one scene and what to make of them. ``broken`` had to break: their router, or HAProxy, was the victim."""

    streams: Sequence[Stream]
    struck_s: float
    there: int
    broken: Sequence[Stream] = ()
    notes: list[str] = field(default_factory=list)

    def row(self, fault: str, step: str, zero: Zero) -> Row:
        """The row of the table."""
        others = [stream for stream in self.streams if stream not in self.broken]
        faults = [f"{stream.ask.name}: {stream.fault}" for stream in others if stream.fault]
        notes = list(self.notes)
        if self.broken:
            completed = sum(stream.completed for stream in self.broken)
            notes.append(f"{len(self.broken)} more had their connection at the victim; {completed} of them completed")
        if zero.took_s > _SLOW_S:
            notes.append(f"held the longest: {zero.last}")
        return Row(
            fault,
            step,
            self.there,
            len(others),
            sum(stream.completed for stream in others),
            sum(stream.wrong_tokens for stream in self.streams),
            len(faults),
            max((stream.longest_gap_s(self.struck_s) for stream in others), default=0.0),
            sum(zero.held.values()),
            zero.took_s,
            (*notes, *faults, *(f"{count} {what}" for what, count in zero.held.items()), *zero.running),
        )

    @property
    def slowest_first_token_s(self) -> float:
        """Of the streams that had no token when the fault struck, how long the slowest then took to its first."""
        return max((stream.first_token_after_s(self.struck_s) for stream in self.streams if stream not in self.broken), default=0.0)
