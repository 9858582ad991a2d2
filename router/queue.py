"""The router's queue: requests that no worker has room for, in the order in which they are to be placed. Pure; told the time.

Bounded by count, by tokens and by the wait it predicts, so that what is accepted is served in time and the rest is refused at
the door, where refusing is cheap.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from core.ids import RequestId


class Rank(IntEnum):
    """Who goes first."""

    HANDED_OFF = 0
    """Its prompt is computed, and blocks are kept for it meanwhile."""
    RESUMED = 1
    """Its client has tokens already, or it has lost a worker."""
    NEW = 2


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request in the queue. ``tokens`` are those to be computed before it can go on."""

    request: RequestId
    rank: Rank
    tokens: int
    since_s: float
    until_s: float
    """When waiting any longer is pointless."""

    @property
    def order(self) -> tuple[int, float]:
        return (self.rank, self.since_s)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What of new requests may wait. Those that are under way are never refused for lack of room in the queue."""

    max_requests: int = 512
    max_tokens: int = 2_000_000
    max_wait_s: float = 30.0
    """Whoever has waited so long is refused. So are those, on arrival, who would wait for half of it, for predictions err."""

    @property
    def predicted_wait_s(self) -> float:
        """The longest predicted wait with which a new request is let in."""
        return self.max_wait_s / 2


class DrainRate:
    """Tokens per second that are served while there is a queue: what the workers can do.

    Time without a queue does not count, for what is served then is only what was asked. The last ``window_s`` seconds with a
    queue do, also over gaps, unless the last of them is longer ago than ``forget_s``.
    """

    def __init__(self, window_s: float = 10.0, forget_s: float = 60.0) -> None:
        self._window_s = window_s
        self._forget_s = forget_s
        self._served: deque[tuple[float, int]] = deque()
        """When, in seconds with a queue, and how much."""
        self._tokens = 0
        self._counted_s = 0.0
        self._since_s: float | None = None
        self._ended_s = -math.inf

    def began(self, now: float) -> None:
        """There is a queue from now on."""
        if now - self._ended_s > self._forget_s:
            self._served.clear()
            self._tokens, self._counted_s = 0, 0.0
        self._since_s = now

    def ended(self, now: float) -> None:
        """There is none any more."""
        self._counted_s = self._seconds(now)
        self._since_s, self._ended_s = None, now

    def served(self, tokens: int, now: float) -> None:
        """A worker has begun to answer one that waited."""
        self._served.append((self._seconds(now), tokens))
        self._tokens += tokens

    def per_second(self, now: float, next_tokens: float) -> float | None:
        """As if a request of ``next_tokens`` were served right now, or a queue where all take long would seem to stand still for
        ever. None while there is too little to go by."""
        seconds = self._seconds(now)
        while self._served and self._served[0][0] < seconds - self._window_s:
            self._tokens -= self._served.popleft()[1]
        watched_s = min(seconds, self._window_s)
        return (self._tokens + next_tokens) / watched_s if watched_s >= 1.0 else None

    def _seconds(self, now: float) -> float:
        return self._counted_s + (0.0 if self._since_s is None else now - self._since_s)


class RequestQueue:
    """All waiting requests of one router."""

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self._waiting: dict[RequestId, Waiting] = {}
        self._rate = DrainRate()
        self._tokens = 0
        self._new = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request: RequestId) -> bool:
        return request in self._waiting

    @property
    def tokens(self) -> int:
        """Tokens to be computed for all that wait."""
        return self._tokens

    @property
    def head(self) -> Waiting | None:
        """Whose turn it is."""
        return min(self._waiting.values(), key=lambda waiting: waiting.order, default=None)

    def enter(self, waiting: Waiting, now: float) -> None:
        """A request has to wait, or is in the queue and is something else now."""
        if not self._waiting:
            self._rate.began(now)
        elif (before := self._waiting.pop(waiting.request, None)) is not None:
            self._tokens -= before.tokens
            self._new -= before.rank is Rank.NEW
        self._waiting[waiting.request] = waiting
        self._tokens += waiting.tokens
        self._new += waiting.rank is Rank.NEW

    def leave(self, request: RequestId, now: float) -> Waiting | None:
        """It is gone: about to be tried again, aborted or given up."""
        waiting = self._waiting.pop(request, None)
        if waiting is not None:
            self._tokens -= waiting.tokens
            self._new -= waiting.rank is Rank.NEW
            if not self._waiting:
                self._rate.ended(now)
        return waiting

    def served(self, tokens: int, now: float) -> None:
        """A worker has begun to answer a request that waited. Not when it is offered: it may be refused and come back."""
        self._rate.served(tokens, now)

    def overdue(self, now: float) -> list[Waiting]:
        """Those for whom waiting is over."""
        return [waiting for waiting in self._waiting.values() if waiting.until_s <= now]

    def oldest_s(self, now: float) -> float:
        """How long the one that waits longest has done so; 0 in an empty queue."""
        return max((now - waiting.since_s for waiting in self._waiting.values()), default=0.0)

    def predicted_wait_s(self, now: float) -> float | None:
        """How long a request that enters now will wait; None when there is nothing to go by."""
        if not self._tokens:
            return 0.0
        rate = self._rate.per_second(now, self._tokens / len(self._waiting))
        return None if rate is None else self._tokens / rate

    def full(self, now: float, requests: int = 1) -> str | None:
        """Why so many new requests cannot wait here, in words for their client; None while there is room."""
        limits = self.limits
        if not self._waiting:
            return None
        if self._new + requests > limits.max_requests:
            return f"{self._new} requests are waiting, and {limits.max_requests} may"
        if self._tokens >= limits.max_tokens:
            return f"{self._tokens} prompt tokens are waiting, and {limits.max_tokens} may"
        if self.oldest_s(now) > limits.predicted_wait_s:
            return f"requests have been waiting for more than {limits.predicted_wait_s:g} s"
        wait_s = self.predicted_wait_s(now)
        if wait_s is not None and wait_s > limits.predicted_wait_s:
            return f"the wait would be {wait_s:.1f} s, and {limits.predicted_wait_s:g} s is the most"
        return None

    def retry_after_s(self, now: float, default_s: float) -> float:
        """When a refused client should try again: once half of what may wait has drained; ``default_s`` with nothing to go by.

        Half, so that those who come back at that time find room. Between 1 and 60 seconds.
        """
        wait_s = self.predicted_wait_s(now)
        if wait_s is None:
            return max(1.0, default_s)
        return min(60.0, max(1.0, wait_s - self.limits.predicted_wait_s / 2))
