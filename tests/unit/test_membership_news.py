"""When routers that wait are told of the workers."""

from __future__ import annotations

import asyncio

import pytest

from cluster.lifecycle import WorkerRecord
from cluster.membership import Members
from cluster.membership_news import MembershipNews
from core.ids import Epoch, WorkerId
from core.worker import Role

LONG_S, AT_ONCE_S = 60.0, 0.0
NEVER_TOLD = -1


@pytest.fixture
def members() -> Members:
    made = Members()
    made.enter(WorkerRecord(WorkerId("p1"), Role.PREFILL, Epoch(1), "h", 0.0))
    return made


async def test_nobody_is_told_before_the_workers_are_known(members: Members) -> None:
    """Also not of what cannot wait: to a router, who is not named has gone."""
    news = MembershipNews(members)
    await news.tell_now()
    assert not await news.wait(NEVER_TOLD, AT_ONCE_S)
    await news.tell()
    assert await news.wait(NEVER_TOLD, AT_ONCE_S)


async def test_all_that_wait_are_told_at_once(members: Members) -> None:
    """Those that know the present version go on waiting."""
    news = MembershipNews(members)
    await news.tell()
    known = members.version
    waiting = [asyncio.create_task(news.wait(known, LONG_S)) for _ in range(3)]
    await asyncio.sleep(0)
    await news.tell()
    assert not any(task.done() for task in waiting)
    members.remove(WorkerId("p1"))
    await news.tell_now()
    assert await asyncio.gather(*waiting) == [True, True, True]


async def test_versions_that_begin_anew_are_news(members: Members) -> None:
    """A router may know a higher one, of the controller before."""
    news = MembershipNews(members)
    await news.tell()
    assert await news.wait(members.version + 100, AT_ONCE_S)
