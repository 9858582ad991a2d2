"""The order of new requests that wait. Pure.

A lane holds those of one priority that can still be served in time, and another one behind it those of that priority that cannot.
In a lane every tenant has a line of its own, in which who is due first is first; whose line is next is up to the virtual counters
(``router/fairness.py``).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from core.ids import RequestId
from router.fairness import PROMPT_TOKEN, VirtualCounters
from router.service import WantedService
from router.waiting import UNKNOWN, Takes, Waiting

AGEING = 8
"""Every eighth placement is a turn of the lanes further back, so that nobody waits for ever while better ones keep coming."""


class Lane(NamedTuple):
    """The smaller one is first: by priority, and behind those that can be in time those of the same priority that cannot."""

    priority: int
    is_late: bool


class _Place(NamedTuple):
    due_s: float
    number: int
    """In the order of entering: who is equally urgent stays in it."""
    waiting: Waiting


class _Start(NamedTuple):
    by_s: float
    number: int
    request: RequestId


@dataclass(slots=True)
class _Line:
    """One tenant's requests in one lane, the most urgent first."""

    weight: float
    places: list[_Place] = field(default_factory=list)
    tokens: int = 0

    @property
    def load(self) -> float:
        """Requests for their weight: who has most of these has to make way first."""
        return len(self.places) / self.weight


@dataclass(slots=True)
class Round:
    """One look through the lanes, in the order in which requests would be placed if there were room for all."""

    seen: set[RequestId] = field(default_factory=set)
    service: dict[str, float] = field(default_factory=dict)
    """What tenants would have got on top by those that were seen and are not placed."""
    aged: bool = False
    """The turn of the lanes further back has been taken."""

    def passed(self, waiting: Waiting) -> None:
        """It was its turn, and it waits on."""
        wanted = waiting.service
        self.service[wanted.tenant] = self.service.get(wanted.tenant, 0.0) + PROMPT_TOKEN * waiting.tokens / wanted.weight


class Lanes:
    """All new requests that wait, each once. Nothing takes longer for a longer queue, only for more tenants."""

    def __init__(self, counters: VirtualCounters, horizon_s: float) -> None:
        self._counters = counters
        self._horizon_s = horizon_s
        self._lanes: dict[Lane, dict[str, _Line]] = {}
        self._where: dict[RequestId, tuple[Lane, _Place]] = {}
        self._starts: list[_Start] = []
        """By when those have to start that can still be in time, the soonest first."""
        self._tenants: Counter[str] = Counter()
        self._number = 0
        self._placed = 0
        self._served: dict[Lane, int] = {}
        """How many were placed, of all, when a lane was last served or began."""
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._where)

    @property
    def tenants(self) -> list[str]:
        """Those that have somebody waiting."""
        return list(self._tenants)

    def enter(self, waiting: Waiting, now: float) -> None:
        """A request that is not here yet."""
        self._number += 1
        self._put(Lane(waiting.service.priority, waiting.is_late(now)), waiting, self._number)
        self.tokens += waiting.tokens
        self._tenants[waiting.service.tenant] += 1

    def leave(self, request: RequestId) -> None:
        """A request that is here is not any more."""
        waiting = self._take(request)
        self.tokens -= waiting.tokens
        tenant = waiting.service.tenant
        self._tenants[tenant] -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]

    def placed(self, request: RequestId) -> None:
        """The same, because a worker has got it."""
        lane, _ = self._where[request]
        self.leave(request)
        self._placed += 1
        if lane in self._served:
            self._served[lane] = self._placed

    def late(self, now: float) -> None:
        """Moves those that cannot be in time any more behind those that can."""
        while self._starts and self._starts[0].by_s < now:
            lane, place = self._where[self._starts[0].request]
            self._take(place.waiting.request)
            self._put(Lane(lane.priority, True), place.waiting, place.number)

    def next(self, look: Round) -> Waiting | None:
        """Whose turn it is among those that ``look`` has not seen, which has seen it then. None: it has seen all."""
        lanes = sorted(self._lanes)
        if self._placed % AGEING == AGEING - 1 and len(lanes) > 1 and not look.aged:
            lanes.insert(0, min(lanes[1:], key=lambda lane: self._served[lane]))
        look.aged = True
        for lane in lanes:
            place = self._first(self._lanes[lane], look)
            if place is not None:
                look.seen.add(place.waiting.request)
                return place.waiting
        return None

    def last(self) -> Waiting | None:
        """Who has to make way first: of the worst lane, of the tenant with most requests there for its weight, the least urgent."""
        if not self._lanes:
            return None
        line = max(self._lanes[max(self._lanes)].values(), key=lambda line: (line.load, line.places[-1].due_s))
        return line.places[-1].waiting

    def makes_way(self, service: WantedService) -> bool:
        """Whether somebody has to make way for one more request that is to get ``service``, rather than it for the others."""
        last = self.last()
        if last is None or last.service.priority < service.priority:
            return False
        lane = max(self._lanes)
        if lane.priority > service.priority or lane.is_late:
            return True
        lines = self._lanes[lane]
        own = lines.get(service.tenant)
        theirs = lines[last.service.tenant]
        return theirs is not own and theirs.load > (1 + (len(own.places) if own else 0)) / service.weight

    def tokens_ahead(self, service: WantedService, now: float, takes: Takes = UNKNOWN) -> float:
        """Prompt tokens that workers will take on before those of one more request that is to get ``service``.

        Of its own lane: what its tenant has there that is more urgent, and with each part of that the others' fair parts.
        """
        own = Lane(service.priority, False)
        ahead = float(sum(line.tokens for lane, lines in self._lanes.items() if lane < own for line in lines.values()))
        lines = self._lanes.get(own, {})
        line = lines.get(service.tenant)
        if line is None:
            return ahead
        mine = sum(place.waiting.tokens for place in self._before(line, service, now, takes))
        weights = sum(each.weight for each in lines.values())
        return ahead + min(sum(each.tokens for each in lines.values()), mine * weights / line.weight)

    def longest_ahead(self, service: WantedService, now: float, takes: Takes = UNKNOWN) -> Waiting | None:
        """Of its tenant's more urgent ones in its lane, the one with most tokens."""
        line = self._lanes.get(Lane(service.priority, False), {}).get(service.tenant)
        ahead = [] if line is None else self._before(line, service, now, takes)
        return max((place.waiting for place in ahead), key=lambda waiting: waiting.tokens, default=None)

    def oldest_s(self, service: WantedService, now: float) -> float:
        """How long the one has waited that has done so for longest among those whom such a request would stand behind; 0: there is none."""
        line = self._lanes.get(Lane(service.priority, False), {}).get(service.tenant)
        return max((now - place.waiting.counted_since_s for place in line.places), default=0.0) if line else 0.0

    def _before(self, line: _Line, service: WantedService, now: float, takes: Takes) -> list[_Place]:
        """Those of a line that are more urgent than a new request."""
        within_s = takes.first_due_s(service)
        due_s = now + (self._horizon_s if within_s is None else within_s)
        return line.places[: bisect_right(line.places, due_s, key=lambda place: place.due_s)]

    def _first(self, lines: dict[str, _Line], look: Round) -> _Place | None:
        best: tuple[float, _Place] | None = None
        for tenant, line in lines.items():
            counter = self._counters.of(tenant) + look.service.get(tenant, 0.0)
            if best is not None and counter > best[0]:
                continue
            place = next((place for place in line.places if place.waiting.request not in look.seen), None)
            if place is not None and (best is None or (counter, place[:2]) < (best[0], best[1][:2])):
                best = counter, place
        return None if best is None else best[1]

    def _put(self, lane: Lane, waiting: Waiting, number: int) -> None:
        place = _Place(self._due_s(lane, waiting), number, waiting)
        lines = self._lanes.setdefault(lane, {})
        self._served.setdefault(lane, self._placed)
        line = lines.setdefault(waiting.service.tenant, _Line(waiting.service.weight))
        insort(line.places, place, key=lambda place: place[:2])
        line.tokens += waiting.tokens
        self._where[waiting.request] = lane, place
        if not lane.is_late and (start := _start(place)) is not None:
            insort(self._starts, start)

    def _due_s(self, lane: Lane, waiting: Waiting) -> float:
        """Who is late is served in the order of coming; and so are those who are promised nothing, among themselves."""
        if lane.is_late:
            return waiting.since_s
        due_s = waiting.due_s
        return waiting.since_s + self._horizon_s if due_s is None else due_s

    def _take(self, request: RequestId) -> Waiting:
        lane, place = self._where.pop(request)
        if not lane.is_late and (start := _start(place)) is not None:
            del self._starts[bisect_left(self._starts, start)]
        lines = self._lanes[lane]
        line = lines[place.waiting.service.tenant]
        del line.places[bisect_left(line.places, place[:2], key=lambda place: place[:2])]
        line.tokens -= place.waiting.tokens
        if not line.places:
            del lines[place.waiting.service.tenant]
        if not lines:
            del self._lanes[lane]
            del self._served[lane]
        return place.waiting


def _start(place: _Place) -> _Start | None:
    by_s = place.waiting.start_by_s
    return None if by_s is None else _Start(by_s, place.number, place.waiting.request)
