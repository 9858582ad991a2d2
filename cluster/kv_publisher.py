"""Sends one worker's KV feed to the routers that want it. A thin shell: what is sent is the feed's business."""

from __future__ import annotations

import asyncio

from cluster.channel import WorkerEnd
from cluster.kv_feed import KVFeed
from core.ids import RouterId
from engine.base import KVEventMessage

_REST_S = 0.02
"""Between two batches. An engine tells of every step; nothing a router decides is better for knowing it sooner."""


class KVPublisher:
    """A router is told of changes from its first ``answer`` until ``leave``, or until it cannot be reached."""

    def __init__(self, feed: KVFeed, end: WorkerEnd) -> None:
        self._feed = feed
        self._end = end
        self._followers: set[RouterId] = set()
        self._news = asyncio.Event()

    @property
    def sequence(self) -> int:
        """Of the newest changes that routers were told."""
        return self._feed.sequence

    def heard(self, message: KVEventMessage) -> None:
        """The engine's next message."""
        self._feed.heard(message)
        if self._feed.has_news:
            self._news.set()

    async def answer(self, router: RouterId, number: int) -> None:
        """All there is, for one router, letting others have their turn between the parts. For a task of its own."""
        self._followers.add(router)
        for part in self._feed.snapshot(number):
            if not await self._end.send(router, part):
                self.leave(router)
                return
            await asyncio.sleep(0)

    def leave(self, router: RouterId) -> None:
        """It is gone, or was never there."""
        self._followers.discard(router)

    async def run(self) -> None:
        """Tells of changes: the first at once, those that follow it together."""
        while True:
            await self._news.wait()
            self._news.clear()
            for changes in self._feed.take():
                for router in tuple(self._followers):
                    if not await self._end.send(router, changes):
                        self.leave(router)
            await asyncio.sleep(_REST_S)
