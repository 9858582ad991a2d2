"""People's wishes that a worker get another role, as they are left on the notice board: each is carried out once, and answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cluster import board
from core.errors import BatonError
from core.ids import WorkerId
from core.worker import Role

Relabel = Callable[[WorkerId, Role], Awaitable[None]]
"""Raises BatonError or ValueError where that cannot be."""


class RoleWishes:
    """Those of one model's workers."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._granting: dict[WorkerId, asyncio.Task[None]] = {}

    def look(self, relabel: Relabel) -> None:
        """Begins to carry out those that are new. Apart from the caller: a worker that does not answer is waited for."""
        for worker, role in board.asked_roles(self._app).items():
            if worker not in self._granting:
                self._granting[worker] = asyncio.get_running_loop().create_task(self._grant(worker, role, relabel))

    async def settled(self) -> None:
        """Waits for those under way."""
        await asyncio.gather(*self._granting.values(), return_exceptions=True)

    async def _grant(self, worker: WorkerId, role: str, relabel: Relabel) -> None:
        why_not = ""
        try:
            await relabel(worker, Role(role))
        except (BatonError, ValueError) as error:
            why_not = str(error)
        finally:
            del self._granting[worker]
        board.answer_role(self._app, worker, why_not)
