"""Keeps the router's links in line with what the controller says: one link per worker life."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import zmq
import zmq.asyncio

from cluster.channel import ChannelKeys, RouterEnd
from cluster.membership import Membership
from core.block_keys import seed_of
from core.ids import RouterId, WorkerId
from core.worker import WorkerCard
from router.dispatcher import Dispatcher
from router.link import WorkerLink

log = logging.getLogger(__name__)

Fetch = Callable[[int], Awaitable[Membership | None]]
"""Asks the controller for anything newer than a version; None when there is nothing (yet)."""

_RETRY_S = 1.0


class Members:
    """Follows the membership until closed. While the controller is away, the last one it told stays in force."""

    def __init__(self, router: RouterId, dispatcher: Dispatcher, fetch: Fetch, hello_s: float, silence_s: float) -> None:
        self._router = router
        self._dispatcher = dispatcher
        self._fetch = fetch
        self._hello_s = hello_s
        self._silence_s = silence_s
        self._context = zmq.asyncio.Context()
        self._links: dict[WorkerId, WorkerLink] = {}
        self._version = -1
        self.secret: str | None = None
        """The routers' private key; None until the controller has told it."""
        self._task = asyncio.get_running_loop().create_task(self.run())

    async def run(self) -> None:
        """Asks, follows, asks again."""
        while True:
            try:
                membership = await self._fetch(self._version)
            except Exception as error:
                log.warning("router: the controller does not answer (%s); going on with the workers known", type(error).__name__)
                # A new controller counts its versions anew: its first answer must be taken whatever it says.
                self._version = -1
                await asyncio.sleep(_RETRY_S)
                continue
            if membership is None:
                continue
            try:
                await self.follow(membership)
            except Exception:  # an address or key nobody can use; the workers before it in the list are served
                log.exception("router: could not follow membership %d", membership.version)

    async def follow(self, membership: Membership) -> None:
        """Opens links to new workers, closes those to gone ones, and passes on what has changed of the others."""
        self._version, self.secret = membership.version, membership.router_keys.secret
        self._dispatcher.awaits(membership.coming)
        cards = {card.worker: card for card in membership.cards}
        for worker, link in list(self._links.items()):
            if worker not in cards or cards[worker].epoch != link.card.epoch:
                del self._links[worker]
                self._dispatcher.link_closed(worker, "the controller took it out of service")
                await link.close()
        changed = False
        for worker, card in cards.items():
            if worker not in self._links:
                self._links[worker] = self._open(card, membership.router_keys)
            elif self._links[worker].card != card:
                self._links[worker].card = card
                changed = True
        if changed:
            self._dispatcher.link_changed()

    def _open(self, card: WorkerCard, keys: ChannelKeys) -> WorkerLink:
        end = RouterEnd(self._context, self._router, card.address, card.public_key, keys, self._silence_s)
        link = WorkerLink(card, end, self._hello_s, self._dispatcher.received, self._lost, self._dispatcher.hello)
        self._dispatcher.link_opened(link, seed_of(keys.secret))
        return link

    def _lost(self, link: WorkerLink, reason: str) -> None:
        self._dispatcher.worker_lost(link.card.worker, reason)

    def link(self, worker: WorkerId) -> WorkerLink | None:
        """The link to a worker, up or not."""
        return self._links.get(worker)

    @property
    def links(self) -> list[WorkerLink]:
        """All links."""
        return list(self._links.values())

    async def close(self) -> None:
        """Closes every link."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for link in self._links.values():
            await link.close()
        self._links.clear()
        self._context.destroy(0)
