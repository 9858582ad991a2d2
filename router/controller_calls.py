"""What a router asks a model's controller, each within a time. Made of a Serve handle, so that nobody else has to know one."""

from __future__ import annotations

import asyncio
from typing import Any

from cluster.membership import Membership
from core.ids import RouterId

_ANSWERS_WITHIN_S = 5.0


class ControllerCalls:
    """``handle`` is the controller's; ``metrics_address`` is where this router tells of that model."""

    def __init__(self, handle: Any, router: RouterId, metrics_address: str) -> None:
        self._handle = handle
        self._router = router
        self._metrics_address = metrics_address

    async def membership(self, known_version: int) -> Membership | None:
        """Anything newer than a version; None when there is nothing yet. The controller takes its time for it."""
        membership: Membership | None = await self._handle.membership.remote(known_version, self._router, self._metrics_address)
        return membership

    async def status(self) -> dict[str, Any]:
        """Pools and workers."""
        async with asyncio.timeout(_ANSWERS_WITHIN_S):
            known: dict[str, Any] = await self._handle.status.remote()
        return known

    async def targets(self) -> list[dict[str, Any]]:
        """Whom Prometheus is to scrape."""
        async with asyncio.timeout(_ANSWERS_WITHIN_S):
            found: list[dict[str, Any]] = await self._handle.targets.remote()
        return found

    async def scaling(self, last: int) -> dict[str, Any]:
        """So many of the autoscaler's plans."""
        async with asyncio.timeout(_ANSWERS_WITHIN_S):
            plans: dict[str, Any] = await self._handle.scaling.remote(last)
        return plans
