"""An engine's sleep: asked for again and again by the controller, carried out once, one thing at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.base import Engine


class Rest:
    """``may_sleep`` says whether the worker drains and has nothing to do; ``woken`` is called when the engine can work again."""

    def __init__(self, engine: Engine, may_sleep: Callable[[], bool], woken: Callable[[], None]) -> None:
        self.asleep = False
        """Whether the engine sleeps, or has not quite woken."""
        self._engine = engine
        self._may_sleep = may_sleep
        self._woken = woken
        self._wanted = False
        self._asked = asyncio.Event()

    def ask(self, asleep: bool) -> None:
        """What the worker is to be, from now on; the last word counts. Sleep that is not possible yet has to be asked for again."""
        self._wanted = asleep
        self._asked.set()

    async def run(self) -> None:
        """For as long as the worker lives. Raises EngineFailedError."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            if self._wanted and not self.asleep and self._may_sleep():
                self.asleep = True
                await self._engine.sleep()
            elif not self._wanted:
                if self.asleep:
                    await self._engine.wake()
                self._woken()
                self.asleep = False
