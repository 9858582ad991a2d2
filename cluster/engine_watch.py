"""The watch on a worker's engine: one that gives no sign of life is asked for one, and is given up if it has none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.channel import gather_quietly
from cluster.watchdog import StallWatch, Verdict
from core.errors import EngineFailedError
from engine.base import Engine

_PROBE = "is_sleeping"
"""The cheapest of its utilities. The engine answers between two steps."""


class EngineWatch:
    """``has_work`` says whether the engine has any: silence without is none. It is looked at every ``looks_s``, or more often."""

    def __init__(self, engine: Engine, has_work: Callable[[], bool], limit_s: float, looks_s: float, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._has_work = has_work
        self._limit_s = limit_s
        self._looks_s = min(looks_s, limit_s / 8)
        self._clock = clock
        self._stall = StallWatch(limit_s, clock())
        self._probe: asyncio.Task[None] | None = None

    def lived(self) -> None:
        """A step ended."""
        self._stall.lived()

    async def run(self) -> None:
        """Raises EngineFailedError once the engine hangs."""
        while True:
            await asyncio.sleep(self._looks_s)
            verdict = self._stall.look(self._has_work(), self._clock())
            if verdict is Verdict.HUNG:
                raise EngineFailedError(f"no step for {self._limit_s:g} s")
            if verdict is Verdict.PROBE and self._probe is None:
                self._probe = asyncio.create_task(self._ask_whether_it_lives())

    async def close(self) -> None:
        """Asks no more. After ``run`` has ended: a hung engine is told of before anybody waits for its answer to end."""
        if self._probe is not None:
            await gather_quietly(self._probe)

    async def _ask_whether_it_lives(self) -> None:
        try:
            await self._engine.utility(_PROBE)
            self._stall.lived()
        except EngineFailedError:
            pass  # an engine that has died tells so by its step
        finally:
            self._probe = None
