"""Time that goes slower than the wall's, for clusters of simulated engines that are more than the machine under them can keep up with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Pace:
    """Clock, sleep and timers in which every second lasts ``slowdown`` of the wall's. 1 is the wall's own time.

    Whoever lives at one pace can compare and exchange seconds. Sockets, keep-alives and the controller do not: they are real.
    """

    def __init__(
        self,
        slowdown: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slowdown = slowdown
        self._clock = clock

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock() / self._slowdown

    async def sleep(self, seconds: float) -> None:
        """Also for 0 seconds it lets others have their turn."""
        await asyncio.sleep(seconds * self._slowdown)

    def later(self, delay_s: float, what: Callable[[], None]) -> asyncio.TimerHandle:
        """Has something happen on the running event loop."""
        return asyncio.get_running_loop().call_later(delay_s * self._slowdown, what)
