"""Slower time: what it is for the clock, for sleep and for timers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from core.config import BatonConfig
from core.errors import ConfigError
from core.pace import Pace
from engine.sim_config import SimulatedEngineConfig


@pytest.mark.parametrize(("slowdown", "wall_s", "passed_s"), [(1.0, 30.0, 30.0), (10.0, 30.0, 3.0), (0.5, 30.0, 60.0)])
def test_the_clock_goes_as_slow(slowdown: float, wall_s: float, passed_s: float) -> None:
    """So many wall seconds are so many fewer of the pace's."""
    wall = iter((100.0, 100.0 + wall_s))
    pace = Pace(slowdown, lambda: next(wall))
    began_s = pace.now()
    assert pace.now() - began_s == pytest.approx(passed_s)


async def test_sleep_and_timers_take_as_much_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a clock at this pace says has passed is what was asked for."""
    loop = asyncio.get_running_loop()
    waits_s: list[float] = []

    def call_later(delay_s: float, what: Callable[..., object], *arguments: object) -> asyncio.TimerHandle:
        waits_s.append(delay_s)
        return asyncio.TimerHandle(loop.time(), what, arguments, loop)

    async def sleep(seconds: float) -> None:
        waits_s.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(loop, "call_later", call_later)
    pace = Pace(10.0)
    await pace.sleep(0.25)
    pace.later(0.5, lambda: None)
    assert waits_s == [2.5, 5.0]


def test_routers_and_engines_are_told_the_same() -> None:
    """The routers' clocks go by the option of the simulated engine; real engines have no other time than the wall's."""
    engine = {"kind": "simulated", "simulated": {"slowdown": 10}}
    slow = BatonConfig.model_validate({"model": "demo", "engine": engine, "kv_transfer": {"backend": "simulated"}})
    assert slow.engine.slowdown == SimulatedEngineConfig.of_config(slow, "127.0.0.1").slowdown == 10.0
    assert BatonConfig.model_validate({"model": "demo"}).engine.slowdown == 1.0


def test_time_does_not_stand_still() -> None:
    """A slowdown has to be above 0."""
    with pytest.raises(ConfigError, match="above 0"):
        SimulatedEngineConfig(slowdown=0.0)
