"""A model's workers in the hands of its controller: what is asked of where they run, and what comes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from cluster.fleet import Fleet
from cluster.lifecycle import RoleChanged
from cluster.membership import Create
from cluster.placement import Placement
from cluster.pool_tally import PoolTally
from cluster.spec import WorkerReport, WorkerSpec
from cluster.spec_maker import SpecMaker
from core.config import BatonConfig
from core.errors import WorkerLostError
from core.ids import WorkerId
from core.worker import Role, WorkerCard, WorkerState
from tests.support.eventually import assert_eventually
from tests.support.scaling import FACTS

CONFIG = BatonConfig(model="demo")
WAIT_S = 10.0
"""For answers that come at once."""


class Nowhere:
    """Workers that run nowhere: each is ready at its first beat. ``asked`` is all that was asked of them; ``lost`` who is dead, and of
    what."""

    def __init__(self) -> None:
        self.specs: dict[WorkerId, WorkerSpec] = {}
        self.asked: list[tuple[str, Role | WorkerId]] = []
        self.lost: dict[Role, str] = {}
        self.obeys = asyncio.Event()
        self.obeys.set()

    async def create(self, spec: WorkerSpec, *_: Any) -> None:
        self.asked.append(("create", spec.role))
        if reason := self.lost.get(spec.role):
            raise WorkerLostError(spec.worker, reason)
        self.specs[spec.worker] = spec

    async def find(self) -> list[WorkerSpec]:
        return list(self.specs.values())

    async def beat(self, worker: WorkerId, _: float) -> WorkerReport:
        spec = self.specs[worker]
        if reason := self.lost.get(spec.role):
            raise WorkerLostError(worker, reason)
        return WorkerReport("ready", card=WorkerCard(worker, spec.epoch, spec.role, WorkerState.READY, "tcp://h:1", "k", FACTS))

    async def relabel(self, worker: WorkerId, role: Role) -> bool:
        self.asked.append(("relabel", role))
        await self.obeys.wait()
        return True

    async def remove(self, worker: WorkerId) -> None:
        self.asked.append(("remove", worker))


def made(nowhere: Nowhere, wanted: Mapping[Role, int] | None = None) -> Fleet:
    specs = SpecMaker("baton", CONFIG)
    return Fleet(CONFIG, specs, cast(Placement, nowhere), wanted or {Role.PREFILL: 1, Role.DECODE: 1}, PoolTally())


@pytest.fixture
def nowhere() -> Nowhere:
    return Nowhere()


async def started(fleet: Fleet, action: Create) -> None:
    fleet.create(action)
    assert fleet.pending[action.role] == 1  # not among the members yet, and not to be created once more
    await assert_eventually(lambda: not fleet.pending[action.role], WAIT_S, "created, or not")


def states(fleet: Fleet) -> list[tuple[Role, WorkerState]]:
    return [(record.role, record.state) for record in fleet.members]


async def test_a_worker_is_created_and_heard(nowhere: Nowhere) -> None:
    """It is a member as soon as it is asked for, and ready when it says so."""
    fleet = made(nowhere)
    await started(fleet, Create(Role.DECODE))
    assert states(fleet) == [(Role.DECODE, WorkerState.STARTING)]
    await fleet.hear(WAIT_S)
    assert states(fleet) == [(Role.DECODE, WorkerState.READY)]
    assert set(fleet.start_s) == {Role.DECODE}


@pytest.mark.parametrize("at_once", [True, False], ids=["ray does not take it", "its process ends"])
async def test_who_is_lost_is_ended_and_remembered(nowhere: Nowhere, at_once: bool) -> None:
    """With the reason, for `baton status`; what is left of it is removed."""
    fleet = made(nowhere)
    if at_once:
        nowhere.lost[Role.DECODE] = "no such resource"
    await started(fleet, Create(Role.DECODE))
    nowhere.lost[Role.DECODE] = "no such resource"
    await fleet.hear(WAIT_S)
    assert states(fleet) == [(Role.DECODE, WorkerState.GONE)]
    [failure] = fleet.failures
    assert (failure["reason"], failure["was_ready"]) == ("no such resource", False)
    await fleet.end_all()
    assert ("remove", failure["worker"]) in nowhere.asked


async def test_a_replacement_takes_the_place_of_one_dead_worker(nowhere: Nowhere) -> None:
    """The dead one is forgotten, and what it had told: else it would be replaced twice."""
    fleet = made(nowhere)
    await started(fleet, Create(Role.DECODE))
    await fleet.hear(WAIT_S)
    nowhere.lost[Role.DECODE] = "killed"
    await fleet.hear(WAIT_S)
    del nowhere.lost[Role.DECODE]
    await started(fleet, Create(Role.DECODE, restarts=1))
    assert states(fleet) == [(Role.DECODE, WorkerState.STARTING)]
    assert not fleet.reports


async def test_a_pause_may_outlive_the_wish(nowhere: Nowhere) -> None:
    """Who was to be created after a while is not, when by then there are as many as are wanted."""
    fleet = made(nowhere, {Role.PREFILL: 0, Role.DECODE: 1})
    for role in Role:
        await started(fleet, Create(role, restarts=2, after_s=0.001))
    assert nowhere.asked == [("create", Role.DECODE)]


async def test_workers_that_were_there_are_taken_over(nowhere: Nowhere) -> None:
    """Also their routers' keys, and new workers go on behind their epochs; of no start is it known how long it took."""
    before = made(nowhere)
    await started(before, Create(Role.PREFILL))
    fleet = made(nowhere)
    await fleet.find()
    await started(fleet, Create(Role.DECODE))
    await fleet.hear(WAIT_S)
    first, second = nowhere.specs.values()
    assert states(fleet) == [(Role.PREFILL, WorkerState.READY), (Role.DECODE, WorkerState.READY)]
    assert (second.router_keys, second.epoch > first.epoch) == (first.router_keys, True)
    assert (fleet.found, set(fleet.start_s)) == ({first.worker}, {Role.DECODE})


async def test_a_role_is_told_once(nowhere: Nowhere) -> None:
    """While a worker is being told, its beats may show either role: it is not told a second time by that."""
    fleet = made(nowhere)
    await started(fleet, Create(Role.DECODE))
    await fleet.hear(WAIT_S)
    [worker] = nowhere.specs
    nowhere.obeys.clear()
    telling = asyncio.create_task(fleet.tell_role(worker, Role.PREFILL))
    await asyncio.sleep(0)
    fleet.apply(worker, RoleChanged(Role.PREFILL))  # its beats still say that it decodes
    await fleet.hear(WAIT_S)
    nowhere.obeys.set()
    await telling
    assert [what for what, _ in nowhere.asked] == ["create", "relabel"]
    await fleet.hear(WAIT_S)
    await fleet.end_all()
    assert [what for what, _ in nowhere.asked] == ["create", "relabel", "relabel", "remove"]  # it said so again, and is told again


async def test_the_end(nowhere: Nowhere) -> None:
    """All workers are removed, and nobody is created any more."""
    fleet = made(nowhere)
    await started(fleet, Create(Role.DECODE))
    fleet.create(Create(Role.PREFILL, restarts=3, after_s=60.0))
    await asyncio.sleep(0)
    await fleet.end_all()
    await assert_eventually(lambda: not fleet.pending[Role.PREFILL], WAIT_S, "given up")
    [worker] = nowhere.specs
    assert nowhere.asked == [("create", Role.DECODE), ("remove", worker)]
