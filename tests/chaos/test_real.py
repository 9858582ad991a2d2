"""Faults against real vLLM engines: what clients get is, token for token, what a plain vLLM server gives that nobody disturbs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.chaos import real
from tests.chaos.clusters import chaos_up, real_args
from tests.chaos.real import SCENES
from tests.chaos.report import Row
from tests.chaos.scenes import Scene
from tests.chaos.stage import Stage, stage_on
from tests.chaos.streams import Ask
from tests.support.cluster_process import Cluster
from tests.support.reference_server import ReferenceServer

pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.slow]


def titled(value: object) -> str:
    """The name of a parameter; the number needs none."""
    return f"{value.title}, {value.step}" if isinstance(value, Scene) else ""


BUSY_S = 10.0
"""Four engines and a fifth that loads share two cores: how long a prompt then takes says nothing of Baton."""


@pytest.fixture(scope="module")
def asks(reference: ReferenceServer) -> dict[int, list[Ask]]:
    """What is asked, with the reference's answers."""
    return real.expected(reference.url)


@pytest.fixture(scope="module")
def cluster(asks: dict[int, list[Ask]]) -> Iterator[Cluster]:
    with chaos_up(real_args()) as cluster:
        yield cluster


def played(cluster: Cluster, scene: Callable[[Stage], Awaitable[Row]]) -> Row:
    async def on_stage() -> Row:
        async with stage_on(cluster) as stage:
            return await scene(stage)

    return asyncio.run(on_stage())


@pytest.mark.parametrize(("number", "scene"), list(enumerate(SCENES)), ids=titled)
def test_a_fault(cluster: Cluster, asks: dict[int, list[Ask]], number: int, scene: Scene) -> None:
    """Greedy, seeded, penalised and by a grammar: all go on exactly, on another engine."""
    assert played(cluster, lambda stage: real.play_real(stage, scene, number, asks)).broken(scene.gap_limit_s + BUSY_S) == []


def test_clients_leave_between_the_legs(cluster: Cluster, asks: dict[int, list[Ask]]) -> None:
    """Prompts that are computed and kept for nobody are let go; those who stay notice nothing."""
    assert played(cluster, lambda stage: real.clients_leave_between_the_legs(stage, asks)).broken(BUSY_S) == []
