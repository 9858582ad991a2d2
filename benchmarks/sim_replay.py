"""Replays requests through the simulated engine's scheduler under a virtual clock: one engine, no router, no Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from core.ids import LegId
from core.step_model import StepWork
from engine.sim_config import SimulatedEngineConfig
from engine.sim_request import SimRequest
from engine.sim_scheduler import SimScheduler


class StepTime(Protocol):
    def step_s(self, work: StepWork) -> float: ...


class Arrival(msgspec.Struct, frozen=True):
    """One request of a workload. Its output has exactly ``output_tokens``."""

    at_s: float
    prompt: list[int]
    output_tokens: int


class Timed(msgspec.Struct, frozen=True):
    """When a request came, and when its first and its last token were out."""

    arrival_s: float
    first_s: float
    last_s: float
    output_tokens: int

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.arrival_s

    @property
    def tpot_s(self) -> float:
        """Of a request with at least two tokens."""
        return (self.last_s - self.first_s) / (self.output_tokens - 1)


KnownEnd = Callable[[int, int], float | None]
"""When the n-th token (from 1) of an arrival (by index) is known to have been out, or None."""


class RunStep(msgspec.Struct, frozen=True):
    """One step that was run."""

    start_s: float
    end_s: float
    work: StepWork
    known: bool
    """Its end was told, not computed."""


class Replay:
    """One run. ``depth`` 2 is vLLM's asynchronous scheduling (its default): a step is decided while the one before it runs,
    so that a request is computed one step later than it could be, and a slot stays empty for one step. ``depth`` 1 is without."""

    def __init__(self, config: SimulatedEngineConfig, timing: StepTime, depth: int = 2) -> None:
        self._config = config
        self._timing = timing
        self._depth = depth

    def run(self, arrivals: Sequence[Arrival], known_end: KnownEnd = lambda index, number: None) -> tuple[list[Timed], list[RunStep]]:
        """What became of each arrival, which are in order of time, and the steps in turn.

        With ``known_end`` the clock is set to what is known at each step that gives such a token, so that the steps are decided
        as they were when it was measured, and their work can be held against the time they took.
        """
        scheduler = SimScheduler(self._config)
        coming = deque((index, arrival) for index, arrival in enumerate(arrivals))
        slots = self._config.max_num_seqs
        """One is free again when the engine knows of its request's end, which is when that step is over."""
        tokens: dict[LegId, list[float]] = {}
        steps: list[RunStep] = []
        flying: deque[tuple[float, int]] = deque()
        """When each step that was decided ends, and how many requests with it."""
        now = 0.0
        while True:
            while coming and coming[0][1].at_s <= now and slots > 0:
                index, arrival = coming.popleft()
                scheduler.add(SimRequest(LegId(f"{index}:0"), arrival.prompt, arrival.output_tokens), now)
                slots -= 1
            step = scheduler.schedule(now)
            if step.chunks:
                start = max(now, steps[-1].end_s if steps else 0.0)
                work = step.work
                emitted = scheduler.finish(step, start).emitted  # lengths are known, so the next step can be decided behind it
                numbers = {token.leg: len(tokens.setdefault(token.leg, [])) + 1 for token in emitted}
                known = [at for leg, number in numbers.items() if (at := known_end(_index(leg), number)) is not None]
                end = max(known) if known else start + self._timing.step_s(work)
                for token in emitted:
                    tokens[token.leg].append(end)
                steps.append(RunStep(start, end, work, bool(known)))
                flying.append((end, sum(bool(token.ended) for token in emitted)))
                if len(flying) < self._depth:
                    continue
            if flying:
                now, ended = flying.popleft()
                slots += ended
            elif coming:
                now = max(now, coming[0][1].at_s)
            else:
                break
        timed = [(arrival, tokens[LegId(f"{index}:0")]) for index, arrival in enumerate(arrivals)]
        return [Timed(arrival.at_s, out[0], out[-1], arrival.output_tokens) for arrival, out in timed], steps


def _index(leg: LegId) -> int:
    return int(leg.partition(":")[0])
