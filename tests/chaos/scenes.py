"""Every fault at every step, on simulated engines: which scenes there are, and how one is played."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum

import psutil

from tests.chaos.faults import Blocked, Fault, Sigkill, Sigstop
from tests.chaos.oracle import asks
from tests.chaos.report import Row
from tests.chaos.stage import Outcome, Stage, until
from tests.chaos.steps import Step, Timeline, named, step_of
from tests.chaos.streams import Ask, Stream

STREAMS = 16
OUTPUT_TOKENS = 100
_LONG_PROMPT, _SHORT_PROMPT = 800, 300
"""Long ones where requests are to be hit before their first token."""
_FILLERS = 30
"""Streams that take all but two places of the decode pool, so that others wait between their legs."""
_STOPPED_S = 4.0
"""How long a router or HAProxy stands still: longer than it takes the workers to give a router up."""
_STREAMS_LIMIT_S = 60.0


class Victim(StrEnum):
    PREFILL = "prefill worker"
    DECODE = "decode worker"
    CONTROLLER = "controller"
    ROUTER = "router"
    HAPROXY = "HAProxy"


class How(StrEnum):
    KILL = "SIGKILL"
    KILL_ENGINE = "SIGKILL of its engine process"
    STOP = "SIGSTOP"
    STOP_UNTIL_REPLACED = "SIGSTOP until replaced"
    STOP_A_WHILE = "SIGSTOP for 4 s"
    BLOCK = "cut off from every router"
    BLOCK_PAIR = "cut off from one router"
    BLOCK_KV = "cut off from the pool that reads its KV"


@dataclass(frozen=True)
class Scene:
    """What is done to whom, while requests are at which step."""

    victim: Victim
    how: How
    step: Step
    gap_limit_s: float = 2.0

    @property
    def title(self) -> str:
        return f"{self.victim}: {self.how}"


def all_scenes() -> list[Scene]:
    """The whole table."""
    scenes = [Scene(v, h, s) for v in (Victim.PREFILL, Victim.DECODE) for h in (How.KILL, How.STOP, How.BLOCK) for s in Step]
    scenes += [Scene(Victim.PREFILL, How.BLOCK_PAIR, s) for s in (Step.PREFILLING, Step.BETWEEN, Step.PULLING)]
    scenes += [Scene(Victim.DECODE, How.BLOCK_PAIR, s) for s in (Step.PULLING, Step.DECODING)]
    scenes += [Scene(Victim.PREFILL, How.BLOCK_KV, s) for s in (Step.BETWEEN, Step.PULLING)]
    scenes += [Scene(Victim.DECODE, How.STOP_UNTIL_REPLACED, Step.DECODING), Scene(Victim.PREFILL, How.STOP_UNTIL_REPLACED, Step.PULLING)]
    scenes += [Scene(Victim.CONTROLLER, h, s) for h in (How.KILL, How.STOP) for s in Step]
    scenes += [Scene(Victim.ROUTER, How.KILL, s) for s in Step]
    scenes += [Scene(Victim.ROUTER, How.STOP_A_WHILE, s, _STOPPED_S + 2.0) for s in (Step.QUEUED, Step.PULLING, Step.DECODING)]
    scenes += [Scene(Victim.HAPROXY, How.STOP_A_WHILE, Step.DECODING, _STOPPED_S + 2.0), Scene(Victim.HAPROXY, How.KILL, Step.DECODING)]
    return scenes


def some_scenes() -> list[Scene]:
    """Each fault once, each step at least once: what every change has to pass."""
    return [
        Scene(Victim.PREFILL, How.KILL, Step.PREFILLING),
        Scene(Victim.PREFILL, How.KILL, Step.BETWEEN),
        Scene(Victim.PREFILL, How.STOP, Step.PULLING),
        Scene(Victim.PREFILL, How.BLOCK, Step.QUEUED),
        Scene(Victim.PREFILL, How.BLOCK_KV, Step.PULLING),
        Scene(Victim.DECODE, How.KILL, Step.DECODING),
        Scene(Victim.DECODE, How.KILL, Step.PULLING),
        Scene(Victim.DECODE, How.STOP, Step.DECODING),
        Scene(Victim.DECODE, How.BLOCK, Step.DECODING),
        Scene(Victim.DECODE, How.BLOCK_PAIR, Step.DECODING),
        Scene(Victim.CONTROLLER, How.KILL, Step.PULLING),
        Scene(Victim.ROUTER, How.KILL, Step.DECODING),
    ]


def name_of(number: int) -> str:
    """What the names of a scene's requests begin with."""
    return f"scene{number:03d}"


async def undisturbed(stage: Stage) -> Row:
    """The run everything else is compared with: what the clients get is what the engines' rule says they get."""
    await stage.ready()
    streams = stage.crowd.open(asks("undisturbed", STREAMS, _LONG_PROMPT, OUTPUT_TOKENS))
    await stage.crowd.ended(streams, _STREAMS_LIMIT_S)
    ended_s = time.monotonic()
    outcome = Outcome(streams, min(stream.began_s for stream in streams), len(streams))
    return outcome.row("none", "all", await stage.zero(ended_s))


async def play(stage: Stage, scene: Scene, number: int, asked: Sequence[Ask] = ()) -> Row:
    """One row of the table. Begins when everybody is there; ends when nothing is held any more, or the time for that is over.

    ``asked`` are what clients ask instead of the usual; their names begin with ``name_of(number)``.
    """
    await stage.ready()
    name = name_of(number)
    fillers: list[Stream] = []
    if scene.step is Step.BETWEEN:
        fillers = stage.crowd.open(asks(f"fill{number:03d}", _FILLERS, 64, 20 * OUTPUT_TOKENS))
        await stage.until_at(f"fill{number:03d}", Step.DECODING, _FILLERS)
    prompt_tokens = _LONG_PROMPT if scene.step in (Step.QUEUED, Step.PREFILLING) else _SHORT_PROMPT
    streams = stage.crowd.open(asked or asks(name, STREAMS, prompt_tokens, OUTPUT_TOKENS))
    strike = await _Aim(stage, scene, name, len(streams)).take()
    with strike.stack:
        await stage.crowd.leave(fillers)
        if scene.how is How.STOP_A_WHILE:
            await asyncio.sleep(_STOPPED_S)
            strike.stack.close()
        await stage.crowd.ended(streams, _STREAMS_LIMIT_S)
        ended_s = time.monotonic()
        if scene.how is How.STOP_UNTIL_REPLACED:
            await until(lambda: _is_replaced(stage, strike.victim), 60.0, f"{strike.victim} is replaced", every_s=0.2)
            ended_s = time.monotonic()
    own = [s for s in streams if s.ask.name in strike.own or (s.router and s.router == strike.victim)] if scene.how is How.KILL else []
    outcome = Outcome(streams, strike.struck_s, strike.there, own)
    if outcome.slowest_first_token_s:
        outcome.notes.append(f"the slowest first token came {outcome.slowest_first_token_s:.1f} s after the fault")
    return outcome.row(scene.title, scene.step, await stage.zero(ended_s))


async def _is_replaced(stage: Stage, worker: str) -> bool:
    workers = await stage.cast.workers()
    return worker not in workers and len(workers) == 4


@dataclass
class _Strike:
    """A fault that has struck. Closing ``stack`` takes it back."""

    stack: ExitStack
    struck_s: float
    there: int
    victim: str
    own: frozenset[str] = frozenset()
    """Names of the streams that go through the victim itself."""


class _Aim:
    """Waits until enough of a scene's requests are at its step, and strikes while they are."""

    def __init__(self, stage: Stage, scene: Scene, name: str, streams: int) -> None:
        self._stage, self._scene, self._name = stage, scene, name
        self._enough = {Step.DECODING: streams, Step.QUEUED: 4, Step.BETWEEN: 4}.get(scene.step, 1)

    async def take(self) -> _Strike:
        """Raises AssertionError when the step is never reached."""
        deadline = time.monotonic() + 30.0
        while time.monotonic() < deadline:
            there = await self._there()
            if len(there) >= self._enough and (strike := await self._strike(there)) is not None:
                return strike
            await asyncio.sleep(0.01)
        raise AssertionError(f"{self._scene}: the step was not reached")

    async def _there(self, without: int | None = None) -> list[Timeline]:
        timelines = named(await self._stage.cast.timelines(without), self._name)
        return [timeline for timeline in timelines if step_of(timeline) is self._scene.step]

    async def _strike(self, there: list[Timeline]) -> _Strike | None:
        victim = self._scene.victim
        if victim in (Victim.PREFILL, Victim.DECODE):
            return await self._strike_worker(there)
        if victim is Victim.ROUTER:
            name = Counter(str(timeline["router"]) for timeline in there).most_common(1)[0][0]
            pid = next(door.pid for door in self._stage.cast.doors if door.router == name)
            there = [timeline for timeline in there if timeline["router"] == name]
            own = frozenset(_ask_of(t) for t in named(await self._stage.cast.timelines(), self._name) if t["router"] == name)
        elif victim is Victim.HAPROXY:
            name, pid = "HAProxy", max(self._stage.cast.haproxies(), key=lambda process: process.create_time()).pid
            own = frozenset(f"{self._name}-{number:03d}" for number in range(STREAMS))
        else:
            name, pid, own = "controller", self._stage.cast.controllers()[0].pid, frozenset()
        stack = ExitStack()
        stack.enter_context(Sigkill(pid) if self._scene.how is How.KILL else Sigstop(pid))
        return _Strike(stack, time.monotonic(), len(there), name, own)

    async def _strike_worker(self, there: list[Timeline]) -> _Strike | None:
        """Holds the worker still while it is looked at again: what is seen then cannot move on before the fault strikes."""
        is_prefill = self._scene.victim is Victim.PREFILL
        side = "prefill_worker" if is_prefill else "decode_worker"
        anybody = self._scene.step is Step.QUEUED or (self._scene.step is Step.BETWEEN and not is_prefill)
        workers = await self._stage.cast.workers("prefill" if is_prefill else "decode")
        counted = Counter(timeline[side] for timeline in there if timeline[side] in workers)
        name = str(counted.most_common(1)[0][0]) if counted and not anybody else min(workers)
        pid = int(workers[name]["pid"])
        fault = await self._fault(workers[name], there)
        with _held_still(pid):
            await asyncio.sleep(0.01)  # what it had said already is heard
            seen = [timeline for timeline in await self._there() if anybody or timeline[side] == name]
            if not seen:
                return None
            stack = ExitStack()
            struck_s = time.monotonic()
            stack.enter_context(fault)
        if isinstance(fault, Sigstop):
            os.kill(pid, signal.SIGSTOP)
        return _Strike(stack, struck_s, len(seen), name)

    async def _fault(self, worker: dict[str, object], there: Sequence[Timeline]) -> Fault:
        cast, how = self._stage.cast, self._scene.how
        pid = int(str(worker["pid"]))
        if how is How.KILL:
            return Sigkill(pid)
        if how is How.KILL_ENGINE:
            return Sigkill(next(child.pid for child in psutil.Process(pid).children(recursive=True) if "EngineCore" in child.name()))
        if how is How.BLOCK:
            return Blocked(cast.data_plane(worker, [door.pid for door in cast.doors]))
        if how is How.BLOCK_PAIR:
            router = Counter(str(timeline["router"]) for timeline in there).most_common(1)[0][0]
            return Blocked(cast.data_plane(worker, [door.pid for door in cast.doors if door.router == router]))
        if how is How.BLOCK_KV:
            return Blocked(cast.side_channel(worker, list((await cast.workers("decode")).values())))
        return Sigstop(pid)


def _ask_of(timeline: Timeline) -> str:
    """``cmpl-NAME-0`` is what vLLM makes of the name of a completion with one prompt."""
    return str(timeline["client_request"]).removeprefix("cmpl-").removesuffix("-0")


@contextlib.contextmanager
def _held_still(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
