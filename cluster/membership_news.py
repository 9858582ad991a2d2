"""Has routers wait until there is something new of the workers, and tells all of them at once."""

from __future__ import annotations

import asyncio

from cluster.membership import Members


class MembershipNews:
    """Nobody is told anything before ``tell`` was called once: a restarted controller has yet to find the workers, and an empty answer
    would make routers drop them."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._told_version = -1
        self._told = asyncio.Condition()

    async def wait(self, known_version: int, within_s: float) -> bool:
        """Whether the workers differ from those of a version, or did so in time."""

        def differs() -> bool:
            return self._told_version >= 0 and self._members.version != known_version  # not ">": after a restart versions start anew

        async with self._told:
            try:
                async with asyncio.timeout(within_s):
                    await self._told.wait_for(differs)
            except TimeoutError:
                return False
            return True

    async def tell(self) -> None:
        """Wakes all that wait, if anything has changed. The workers are known by now."""
        if self._told_version != self._members.version:
            async with self._told:
                self._told_version = self._members.version
                self._told.notify_all()

    async def tell_now(self) -> None:
        """Between two calls of ``tell``, for what cannot wait; nothing before the first."""
        if self._told_version >= 0:
            await self.tell()
