"""An engine's sleep, asked for again and again."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from cluster.rest import Rest
from core.errors import EngineFailedError
from engine.base import Engine


class Sleeper:
    """The part of an engine that sleeps: takes as long as the test wants."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def sleep(self) -> None:
        await self._do("sleep")

    async def wake(self) -> None:
        await self._do("wake")

    async def _do(self, what: str) -> None:
        await self.may_go_on.wait()
        self.did.append(what)


class Worker:
    """What surrounds the rest of a worker that has drained."""

    def __init__(self) -> None:
        self.engine = Sleeper()
        self.idle = True
        self.rest = Rest(cast(Engine, self.engine), lambda: self.idle, lambda: self.engine.did.append("serve"))
        self.running = asyncio.create_task(self.rest.run())

    async def settled(self) -> list[str]:
        """What was done once nothing more can be; every task has had its turn then."""
        for _ in range(5):
            await asyncio.sleep(0)
        return self.engine.did

    async def __aenter__(self) -> Worker:
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


async def test_it_is_done_once_however_often_it_is_asked() -> None:
    """The controller repeats itself until it hears."""
    async with Worker() as worker:
        for _ in range(3):
            worker.rest.ask(asleep=True)
            await worker.settled()
        assert (worker.rest.asleep, worker.engine.did) == (True, ["sleep"])
        for _ in range(3):
            worker.rest.ask(asleep=False)
            await worker.settled()
        assert not worker.rest.asleep
        assert [did for did in worker.engine.did if did != "serve"] == ["sleep", "wake"]
        assert worker.engine.did[1:3] == ["wake", "serve"]


async def test_nobody_sleeps_at_work() -> None:
    """One that cannot sleep yet is asked again."""
    async with Worker() as worker:
        worker.idle = False
        worker.rest.ask(asleep=True)
        assert (await worker.settled(), worker.rest.asleep) == ([], False)
        worker.idle = True
        worker.rest.ask(asleep=True)
        assert (await worker.settled(), worker.rest.asleep) == (["sleep"], True)


async def test_the_last_word_counts() -> None:
    """Asked to wake while it falls asleep: it does, and is woken. It is asleep for as long as either takes."""
    async with Worker() as worker:
        worker.engine.may_go_on.clear()
        worker.rest.ask(asleep=True)
        await worker.settled()
        worker.rest.ask(asleep=False)
        assert (await worker.settled(), worker.rest.asleep) == ([], True)
        worker.engine.may_go_on.set()
        assert (await worker.settled(), worker.rest.asleep) == (["sleep", "wake", "serve"], False)


async def test_who_has_not_slept_serves_again() -> None:
    """It drained, and was not told to sleep before it was told to wake."""
    async with Worker() as worker:
        worker.rest.ask(asleep=False)
        assert await worker.settled() == ["serve"]


async def test_an_engine_that_cannot_wake_ends_the_worker() -> None:
    """Its error is the task's."""
    async with Worker() as worker:
        worker.rest.ask(asleep=True)
        await worker.settled()

        async def fail() -> None:
            raise EngineFailedError("no memory")

        worker.engine.wake = fail  # type: ignore[method-assign]
        worker.rest.ask(asleep=False)
        with pytest.raises(EngineFailedError, match="no memory"):
            await worker.running
