"""Virtual time: what happens when, in order, without waiting."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Event:
    """Something that will happen; ``router.timers.Timer``."""

    __slots__ = ("_what",)

    def __init__(self, what: Callable[[], object]) -> None:
        self._what: Callable[[], object] | None = what

    def cancel(self) -> None:
        """It will not. No error when it has happened already."""
        self._what = None

    def happen(self) -> None:
        """Now. Nothing, if it was cancelled."""
        what, self._what = self._what, None
        if what is not None:
            what()


_AHEAD = 1 << 62


class VirtualClock:
    """Seconds since the simulation's begin. Events of the same moment happen in the order in which they were asked for."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._events: list[tuple[float, int, Event]] = []
        self._count = 0

    def now(self) -> float:
        """The clock that is passed on to whoever asks for one."""
        return self._now_s

    def at(self, time_s: float, what: Callable[[], object], *, ahead: bool = False) -> Event:
        """Has something happen at that time, or now if that is past. ``ahead``: before all of the same moment that were not."""
        event = Event(what)
        self._count += 1
        order = self._count - _AHEAD if ahead else self._count
        heapq.heappush(self._events, (max(time_s, self._now_s), order, event))
        return event

    def later(self, delay_s: float, what: Callable[[], object]) -> Event:
        """``router.timers.Later``."""
        return self.at(self._now_s + delay_s, what)

    def run(self, until: Callable[[], bool]) -> bool:
        """Lets things happen until ``until`` says so. False: nothing was left to happen before."""
        events, pop = self._events, heapq.heappop
        while not until():
            if not events:
                return False
            self._now_s, _, event = pop(events)
            event.happen()
        return True
