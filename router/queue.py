"""The router's queue: requests that no worker has room for, in the order in which they are to be placed. Pure; told the time.

Bounded by count, by tokens and by the wait it predicts, so that what is accepted is served in time and the rest is refused at
the door, where refusing is cheap. What is under way goes first, in order of arrival; new requests are in ``router/lanes.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from core.ids import RequestId
from core.metrics.words import Why
from router.drain_rate import DrainRate
from router.fairness import VirtualCounters
from router.lanes import AGEING, Lanes, Round
from router.reason import Reason
from router.service import ORDINARY, WantedService
from router.waiting import UNKNOWN, Rank, Takes, Waiting

_OVERTAKEN_AT_MOST = 32
"""So many later requests may be placed before the first one that waits; then all wait until it has room."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What of new requests may wait. Those that are under way are never refused for lack of room in the queue."""

    max_requests: int = 512
    max_tokens: int = 2_000_000
    max_wait_s: float = 30.0
    """Whoever has waited so long is refused. So are those, on arrival, who would wait for half of it, for predictions err;
    but for those who are promised a time to the first token, which is predicted once they are read."""
    horizon_s: float = 10.0
    """Those that are promised nothing stand in the queue as if they were promised their first token within this."""
    refuse_hopeless: bool = True
    """Nobody waits for longer than the first token is promised within."""
    longest_makes_way: bool = True
    """For a shorter one that would be late behind it."""
    max_start_wait_s: float = 120.0
    """How long one may wait for the first worker, while nobody serves."""

    def longest_wait_s(self, service: WantedService = ORDINARY) -> float:
        """How long such a request may wait."""
        within_s = service.starts_within_s if self.refuse_hopeless else None
        return self.max_wait_s if within_s is None else min(self.max_wait_s, within_s)

    def start_wait_s(self, service: WantedService = ORDINARY) -> float:
        """The same while nobody serves. Its deadline counts; when its first token is promised does not: that promise is as good as
        lost, and a cluster that sleeps would refuse whoever comes first."""
        return self.max_start_wait_s if service.deadline_s is None else min(self.max_start_wait_s, service.deadline_s)

    def predicted_wait_s(self, service: WantedService = ORDINARY) -> float:
        """The longest predicted wait with which such a request is let in."""
        return self.longest_wait_s(service) / 2


class RequestQueue:
    """All waiting requests of one router.

    ``enter``, then ``placed`` when a worker was asked, then ``served`` when it has begun, or ``enter`` again when it refused.
    ``leave`` from anywhere, and at the end of every request. Requests that never wait are told of by ``placed`` and ``leave``, too:
    their tenants are charged for them. ``in_turn`` says who is next.
    """

    def __init__(self, limits: QueueLimits, counters: VirtualCounters | None = None) -> None:
        self.limits = limits
        self.counters = counters or VirtualCounters()
        self._lanes = Lanes(self.counters, limits.horizon_s)
        self._waiting: dict[RequestId, Waiting] = {}
        self._under_way: dict[RequestId, Waiting] = {}
        """Those of them that are not new."""
        self._asked: dict[RequestId, int] = {}
        """Tokens of those that have been given to a worker which has not begun with them."""
        self._charged: set[RequestId] = set()
        """Requests that have been placed once: nobody pays twice because a worker refused or was lost."""
        self._rate = DrainRate()
        self._is_served = True
        self._tokens = 0
        self._first: Waiting | None = None
        """The one that was first in turn, had no room, and has been overtaken."""
        self._overtaken = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request: RequestId) -> bool:
        return request in self._waiting

    @property
    def tokens(self) -> int:
        """Tokens to be computed for all that wait."""
        return self._tokens

    @property
    def oldest_since_s(self) -> float | None:
        """Since when the one has been waiting that waits longest. Looks at all of them: not to be asked for every request."""
        return min((waiting.since_s for waiting in self._waiting.values()), default=None)

    def served_by(self, anybody: bool, now: float) -> None:
        """Whether there is a worker at all, with room or without. While there is none, nobody is refused for the time that others wait,
        and how fast the queue drains is not measured."""
        self._is_served = anybody
        if not anybody:
            self._rate.idle(now)
        elif self._waiting:
            self._rate.busy(now)

    @property
    def lets_pass(self) -> bool:
        """Whether a later request may be placed although the first one has no room. Small ones may, for a while."""
        return self._blocked is None or self._overtaken < _OVERTAKEN_AT_MOST

    def in_turn(self, now: float) -> Iterator[Waiting]:
        """All that wait, in the order in which they are to be offered to workers now. It may change in between: whoever is placed
        or leaves before its turn is not mentioned, and whoever comes may or may not be."""
        self._lanes.late(now)
        for waiting in sorted(self._under_way.values(), key=lambda waiting: waiting.order):
            if waiting.request in self._waiting:
                yield waiting
        look = Round()
        blocked = self._blocked
        if blocked is not None and blocked.rank is Rank.NEW and not self.lets_pass:
            look.seen.add(blocked.request)
            yield blocked
        while (new := self._lanes.next(look)) is not None:
            yield new
            if new.request in self._waiting:
                look.passed(new)

    def enter(self, waiting: Waiting, now: float) -> None:
        """A request has to wait, or is in the queue and is something else now."""
        known = self._remove(waiting.request) is not None or self._asked.pop(waiting.request, None) is not None
        self._waiting[waiting.request] = waiting
        self._tokens += waiting.tokens
        if waiting.rank is Rank.NEW:
            if not known:
                self._joins(waiting.service.tenant)
            self._lanes.enter(waiting, now)
        else:
            self._under_way[waiting.request] = waiting
        if self._is_served:
            self._rate.busy(now)

    def placed(self, request: RequestId, service: WantedService = ORDINARY, tokens: int = 0) -> None:
        """A request was given to a worker. If others were there before it, it has overtaken them.

        ``service`` and ``tokens`` are of one that does not wait: its tenant is charged like that of one that does.
        """
        waiting = self._waiting.get(request)
        if waiting is None:
            self._overtakes(request, Rank.NEW, service)
            self._charge(request, service, tokens)
            return
        self._overtakes(request, waiting.rank, waiting.service)
        if waiting.rank is Rank.NEW:
            self._charge(request, waiting.service, waiting.tokens)
        self._remove(request, placed=True)
        self._asked[request] = waiting.tokens

    def served(self, request: RequestId, now: float) -> None:
        """A worker has begun to answer it. Those that never waited change nothing."""
        tokens = self._asked.pop(request, None)
        if tokens is not None:
            self._rate.served(tokens, now)
            self._rest(now)

    def leave(self, request: RequestId, now: float) -> None:
        """It is gone: aborted, given up, or done."""
        self._charged.discard(request)
        known = self._remove(request) is not None or self._asked.pop(request, None) is not None
        if known:
            self._rest(now)

    @property
    def new(self) -> list[Waiting]:
        """Those that nobody has begun with."""
        return [waiting for waiting in self._waiting.values() if waiting.rank is Rank.NEW]

    def overdue(self, now: float) -> list[Waiting]:
        """Those for whom waiting is over."""
        return [waiting for waiting in self._waiting.values() if waiting.until_s <= now]

    def surplus(self) -> list[Waiting]:
        """Takes out the new requests that have to make way for better ones, which were let in beyond the bounds; they are to be refused."""
        limits = self.limits
        gone: list[Waiting] = []
        while (last := self._lanes.last()) is not None and len(self._lanes) > 1:
            # The one that was let in last may be beyond either bound.
            if len(self._lanes) <= limits.max_requests + 1 and self._lanes.tokens - last.tokens < limits.max_tokens:
                break
            self._remove(last.request)
            gone.append(last)
        return gone

    def predicted_wait_s(self, now: float, service: WantedService | None = None) -> float | None:
        """How long a request that enters now will wait, one behind all that wait or one that is to get ``service``; None when there is
        nothing to go by."""
        if not self._tokens:
            return 0.0
        if not self._is_served:
            return None
        ahead = self._tokens if service is None else self.tokens_ahead(now, service)
        rate = self._rate.per_second(now, self._tokens / len(self._waiting))
        return None if rate is None else ahead / rate

    def tokens_ahead(self, now: float, service: WantedService, elsewhere: float = 0.0, takes: Takes = UNKNOWN) -> float:
        """Tokens to be computed for those that wait before a new request that is to get ``service``; of ``elsewhere``, what waits with
        other routers, as large a part as of those here: workers take from all alike."""
        ahead = self._tokens - self._lanes.tokens + self._lanes.tokens_ahead(service, now, takes)
        return ahead * (1 + elsewhere / self._tokens) if ahead else 0.0

    def longer_ahead(self, now: float, service: WantedService, tokens: int, takes: Takes = UNKNOWN) -> Waiting | None:
        """The longest new request that stands before one of so many tokens that is to get ``service``, and is of the same tenant and
        priority; None where none is longer. It is the one to make way: between tenants the counters decide, not lengths."""
        if not self.limits.longest_makes_way:
            return None
        longest = self._lanes.longest_ahead(service, now, takes)
        return longest if longest is not None and longest.tokens > tokens else None

    def full(self, now: float, requests: int = 1, service: WantedService = ORDINARY) -> Reason | None:
        """Why so many new requests cannot wait here, in words for their client; None while there is room, or others make way."""
        limits = self.limits
        if requests > limits.max_requests + 1:  # one may well be placed at once
            return Reason(Why.QUEUE_FULL, f"{requests} answers at once are asked for, and {limits.max_requests} may wait")
        if not self._waiting:
            return None
        if not self._lanes.makes_way(service):
            if len(self._lanes) + requests > limits.max_requests:
                return Reason(Why.QUEUE_FULL, f"{len(self._lanes)} requests are waiting, and {limits.max_requests} may")
            if self._tokens >= limits.max_tokens:
                return Reason(Why.QUEUE_FULL, f"{self._tokens} prompt tokens are waiting, and {limits.max_tokens} may")
        if not self._is_served:
            return None
        if limits.refuse_hopeless and service.ttft_s is not None:
            return None  # when its first token will come is predicted better once it has been read
        longest_s = limits.predicted_wait_s(service)
        if self._lanes.oldest_s(service, now) > longest_s:
            return Reason(Why.LONG_WAIT, f"requests have been waiting for more than {longest_s:g} s")
        wait_s = self.predicted_wait_s(now, service)
        if wait_s is not None and wait_s > longest_s:
            return Reason(Why.LONG_WAIT, f"the wait would be {wait_s:.1f} s, and {longest_s:g} s is the most")
        return None

    def retry_after_s(self, now: float, default_s: float) -> float:
        """When a refused client should try again: once half of what may wait has drained; ``default_s`` with nothing to go by.

        Half, so that those who come back at that time find room. Between 1 and 60 seconds.
        """
        wait_s = self.predicted_wait_s(now)
        if wait_s is None:
            return max(1.0, default_s)
        return min(60.0, max(1.0, wait_s - self.limits.predicted_wait_s() / 2))

    @property
    def _blocked(self) -> Waiting | None:
        """The one that has been overtaken, while it waits."""
        return self._waiting.get(self._first.request) if self._first is not None else None

    def _overtakes(self, request: RequestId, rank: Rank, service: WantedService) -> None:
        head = min(self._under_way.values(), key=lambda waiting: waiting.order, default=None) or self._lanes.next(Round())
        blocked = self._blocked
        if head is None or (blocked is not None and blocked.request == request):
            self._first, self._overtaken = None, 0.0
            return
        if blocked is None or head.rank < blocked.rank:
            if head.request == request:
                return
            blocked, self._overtaken = head, 0.0
        self._first = blocked
        if rank >= blocked.rank:
            is_better = blocked.rank is Rank.NEW and service.priority < blocked.service.priority
            self._overtaken += 1 / AGEING if is_better else 1  # priorities age, and so slowly

    def _joins(self, tenant: str) -> None:
        waiting = self._lanes.tenants
        if tenant not in waiting:
            self.counters.joins(tenant, waiting)

    def _charge(self, request: RequestId, service: WantedService, tokens: int) -> None:
        if request in self._charged:
            return
        self._charged.add(request)
        self._joins(service.tenant)
        self.counters.placed(service.tenant, service.weight, tokens)

    def _remove(self, request: RequestId, placed: bool = False) -> Waiting | None:
        waiting = self._waiting.pop(request, None)
        if waiting is None:
            return None
        self._tokens -= waiting.tokens
        if self._under_way.pop(request, None) is None:
            (self._lanes.placed if placed else self._lanes.leave)(request)
        return waiting

    def _rest(self, now: float) -> None:
        if not self._waiting and not self._asked and self._is_served:
            self._rate.idle(now)
