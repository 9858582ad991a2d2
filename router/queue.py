"""The router's queue: requests that no worker has room for, in the order in which they are to be placed. Pure; told the time.

Bounded by count, by tokens and by the wait it predicts, so that what is accepted is served in time and the rest is refused at
the door, where refusing is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from core.ids import RequestId
from router.drain_rate import DrainRate

_OVERTAKEN_AT_MOST = 32
"""So many later requests may be placed before the first one that waits; then all wait until it has room."""


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


class RequestQueue:
    """All waiting requests of one router, in order when iterated.

    ``enter``, then ``placed`` when a worker was asked, then ``served`` when it has begun, or ``enter`` again when it refused.
    ``leave`` from anywhere.
    """

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self._waiting: dict[RequestId, Waiting] = {}
        self._asked: dict[RequestId, int] = {}
        """Tokens of those that have been given to a worker which has not begun with them."""
        self._rate = DrainRate()
        self._tokens = 0
        self._new = 0
        self._first: RequestId | None = None
        self._overtaken = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request: RequestId) -> bool:
        return request in self._waiting

    def __iter__(self) -> Iterator[Waiting]:
        return iter(sorted(self._waiting.values(), key=lambda waiting: waiting.order))

    @property
    def tokens(self) -> int:
        """Tokens to be computed for all that wait."""
        return self._tokens

    @property
    def lets_pass(self) -> bool:
        """Whether a later request may be placed although the first one has no room. Small ones may, for a while."""
        return not self._waiting or self._overtaken < _OVERTAKEN_AT_MOST

    def enter(self, waiting: Waiting, now: float) -> None:
        """A request has to wait, or is in the queue and is something else now."""
        self._remove(waiting.request)
        self._asked.pop(waiting.request, None)
        self._waiting[waiting.request] = waiting
        self._tokens += waiting.tokens
        self._new += waiting.rank is Rank.NEW
        self._rate.busy(now)

    def placed(self, request: RequestId) -> None:
        """A request was given to a worker. If others were there before it, it has overtaken them."""
        first = min(self._waiting.values(), key=lambda waiting: waiting.order, default=None)
        if first is not None and first.request != request:
            self._overtaken = self._overtaken + 1 if first.request == self._first else 1
            self._first = first.request
        elif first is not None:
            self._first, self._overtaken = None, 0
        waiting = self._remove(request)
        if waiting is not None:
            self._asked[request] = waiting.tokens

    def served(self, request: RequestId, now: float) -> None:
        """A worker has begun to answer it. Those that never waited change nothing."""
        tokens = self._asked.pop(request, None)
        if tokens is not None:
            self._rate.served(tokens, now)
            self._rest(now)

    def leave(self, request: RequestId, now: float) -> None:
        """It is gone: aborted, given up, or done."""
        known = self._remove(request) is not None or self._asked.pop(request, None) is not None
        if known:
            self._rest(now)

    def overdue(self, now: float) -> list[Waiting]:
        """Those for whom waiting is over."""
        return [waiting for waiting in self._waiting.values() if waiting.until_s <= now]

    def oldest_s(self, now: float) -> float:
        """How long the new request that waits longest has done so; 0 where none waits."""
        return max((now - waiting.since_s for waiting in self._waiting.values() if waiting.rank is Rank.NEW), default=0.0)

    def predicted_wait_s(self, now: float) -> float | None:
        """How long a request that enters now will wait; None when there is nothing to go by."""
        if not self._tokens:
            return 0.0
        rate = self._rate.per_second(now, self._tokens / len(self._waiting))
        return None if rate is None else self._tokens / rate

    def full(self, now: float, requests: int = 1) -> str | None:
        """Why so many new requests cannot wait here, in words for their client; None while there is room."""
        limits = self.limits
        if requests > limits.max_requests + 1:  # one may well be placed at once
            return f"{requests} answers at once are asked for, and {limits.max_requests} may wait"
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

    def _remove(self, request: RequestId) -> Waiting | None:
        waiting = self._waiting.pop(request, None)
        if waiting is not None:
            self._tokens -= waiting.tokens
            self._new -= waiting.rank is Rank.NEW
        return waiting

    def _rest(self, now: float) -> None:
        if not self._waiting and not self._asked:
            self._rate.idle(now)
