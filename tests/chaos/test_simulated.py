"""Faults, a soak and an overload, on the whole stack on real Ray with simulated engines whose every token is known beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.chaos.clusters import chaos_args, chaos_up
from tests.chaos.overload import overload
from tests.chaos.report import Row
from tests.chaos.scenes import How, Scene, play, some_scenes, undisturbed
from tests.chaos.soak import FAULTS, soak
from tests.chaos.sockets import why_not
from tests.chaos.stage import stage_on
from tests.support.cluster_process import Cluster

pytestmark = [pytest.mark.chaos, pytest.mark.integration]


def titled(value: object) -> str:
    """The name of a parameter; the number needs none."""
    return f"{value.title}, {value.step}" if isinstance(value, Scene) else ""


BUSY_S = 6.0
"""What a busy machine may add to a gap; still less than it takes a lease or the controller to notice. ``make chaos`` adds nothing."""


SUSTAINED = 6
"""Requests a second that the prefill workers do, by their timing; a busy machine only makes it more of an overload."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with chaos_up(chaos_args()) as cluster:
        yield cluster


def played(cluster: Cluster, scene: Scene | None, number: int) -> Row:
    async def on_stage() -> Row:
        async with stage_on(cluster) as stage:
            return await (undisturbed(stage) if scene is None else play(stage, scene, number))

    return asyncio.run(on_stage())


def test_without_a_fault(cluster: Cluster) -> None:
    """The cluster's tokens are those of the rule that all other runs are compared with."""
    assert played(cluster, None, 0).broken(2.0 + BUSY_S) == []


@pytest.mark.parametrize(("number", "scene"), list(enumerate(some_scenes())), ids=titled)
def test_a_fault(cluster: Cluster, number: int, scene: Scene) -> None:
    """Every stream completes with the tokens of the undisturbed run, after a short gap, and nothing is left behind."""
    if scene.how in (How.BLOCK, How.BLOCK_PAIR, How.BLOCK_KV):
        pid = next(worker["pid"] for worker in cluster.workers().values())
        if reason := why_not(pid):
            pytest.skip(reason)
    assert played(cluster, scene, number).broken(scene.gap_limit_s + BUSY_S) == []


@pytest.mark.slow
def test_a_soak(cluster: Cluster) -> None:
    """Under mixed load, each fault at least once, one every 15 s: no error but on connections to a killed router, no wrong token, nothing
    left, nothing that grows. ``make chaos`` has the long one."""
    result = soak(cluster, 150.0, fault_every_s=15.0)
    assert result.faults.keys() == FAULTS.keys()
    assert result.broken() == []


@pytest.mark.slow
def test_four_times_the_sustainable_rate(cluster: Cluster) -> None:
    """Refusals say when to come back, who is accepted is served, no process is lost or grows, and afterwards nothing is held.

    How fast, and what is sustained, is in docs/reliability.md, by ``make chaos``: other work on the machine would decide this test.
    """
    assert overload(cluster, 20.0, ramp=(SUSTAINED,)).broken() == []
