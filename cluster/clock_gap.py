"""How far this machine's clock is from another's, as far as messages that carry their time can tell. Pure; told the time."""

from __future__ import annotations

_WINDOW_NS = 60 * 10**9
"""Clocks drift by some milliseconds in a minute; what was seen two of these ago says nothing any more."""


class ClockGap:
    """The smallest difference seen between when a message came, by our clock, and when it was sent, by theirs, in the last minute or two.

    That is the gap between the clocks and the time of the fastest message together: it is too large by the latter, which inside one
    data centre is well under a millisecond. Slower messages then came later, as they did.
    """

    def __init__(self) -> None:
        self._began_ns: int | None = None
        self._smallest_ns: int | None = None
        self._before_ns: int | None = None

    def saw(self, sent_ns: int, came_ns: int) -> int:
        """A message has come. Both are Unix nanoseconds, each by its own clock. What is to be taken from our time to have theirs."""
        passed_ns = _WINDOW_NS if self._began_ns is None else came_ns - self._began_ns
        if passed_ns >= _WINDOW_NS:
            self._before_ns = self._smallest_ns if passed_ns < 2 * _WINDOW_NS else None
            self._began_ns, self._smallest_ns = came_ns, None
        gap_ns = came_ns - sent_ns
        self._smallest_ns = gap_ns if self._smallest_ns is None else min(gap_ns, self._smallest_ns)
        return self._smallest_ns if self._before_ns is None else min(self._smallest_ns, self._before_ns)
