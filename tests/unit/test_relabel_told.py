"""How a new role comes to be obeyed: counted in messages and turns of the event loop, since how long those take is the machine's affair."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import controller as module
from cluster import wanted
from cluster.controller import Controller
from cluster.lifecycle import WorkerRecord
from cluster.spec import spec_hash
from core.config import BatonConfig
from core.ids import Epoch, WorkerId
from core.worker import Role, WorkerCard, WorkerState
from tests.support.cluster_process import simulated_args
from tests.support.scaling import FACTS

TURNS = 10
"""Of the loop, for an answer that nobody waits for but those who asked: far fewer than in a millisecond."""


class Placement:
    """Workers that answer at once. ``told`` is all that was asked of them."""

    def __init__(self, *_: Any) -> None:
        self.told: list[tuple[str, Role]] = []

    async def relabel(self, worker: str, role: Role) -> bool:
        self.told.append((worker, role))
        return True


class Still(Controller):
    """Its loop stands still, and no Serve waits for its end."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    def __del__(self) -> None:  # type: ignore[override]
        """Nothing has been started."""


@pytest.fixture
async def controller(monkeypatch: pytest.MonkeyPatch) -> Controller:
    """One prefill and two decode workers, all ready."""
    monkeypatch.setattr(module, "_app_name", lambda: "baton")
    monkeypatch.setattr(module, "Placement", Placement)
    monkeypatch.setattr(module, "MetricsListener", lambda *_: None)
    monkeypatch.setattr(wanted, "board", SimpleNamespace(keep_wanted=lambda *_: None))
    config = simulated_args(prefill=1, decode=2) | {"host": "127.0.0.1"}
    made = Still(config, lambda *_: None)  # type: ignore[arg-type]  # nobody is built
    for number, role in enumerate((Role.PREFILL, Role.DECODE, Role.DECODE)):
        name = WorkerId(f"w{number}")
        card = WorkerCard(name, Epoch(1), role, WorkerState.READY, "tcp://h:1", "k" * 40, FACTS)
        made_of = spec_hash(BatonConfig.model_validate(config), role)
        made._fleet.members.enter(WorkerRecord(name, role, Epoch(1), made_of, 0.0, WorkerState.READY, card=card, ready_after_s=1.0))
    await made._news.tell()
    return made


async def test_routers_are_told_in_the_same_go(controller: Controller) -> None:
    """The worker is told once; then every router that waits for news has the new role, though the controller's own loop has not turned:
    one message to the worker and one answer to each router is all there is between a decision and its being obeyed."""
    first = await controller.membership(-1)
    assert first is not None
    waiting = [asyncio.ensure_future(controller.membership(first.version)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(poll.done() for poll in waiting)
    await controller.relabel(WorkerId("w1"), Role.PREFILL)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert all(poll.done() for poll in waiting)
    assert controller._fleet._placement.told == [("w1", Role.PREFILL)]  # type: ignore[attr-defined]  # the stand-in's
    for poll in waiting:
        heard = poll.result()
        assert heard is not None
        assert {card.worker: card.role for card in heard.cards}[WorkerId("w1")] is Role.PREFILL
    controller._loop_task.cancel()
