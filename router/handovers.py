"""The last minute's hand-overs by pair of workers. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from core.ids import WorkerId
from router.timeline import Timeline

WINDOW_S = 60.0
_SLOT_S = 5.0
_MOST_PAIRS = 4096
"""Of one slot. What a thousand workers can make of each other is a million, and nobody looks at those."""

Pair = tuple[WorkerId, WorkerId]


@dataclass(slots=True)
class Flow:
    """What one pair has handed over."""

    count: int = 0
    transfer_bytes: int = 0
    transfer_s: float = 0.0
    recomputed: int = 0
    """Prompts that the decode worker silently computed again."""

    def add(self, other: Flow) -> None:
        self.count += other.count
        self.transfer_bytes += other.transfer_bytes
        self.transfer_s += other.transfer_s
        self.recomputed += other.recomputed


@dataclass(slots=True)
class _Slot:
    begins_s: float
    pairs: dict[Pair, Flow] = field(default_factory=dict)
    whole: int = 0
    beyond: int = 0


@dataclass(frozen=True, slots=True)
class Recent:
    """Of the last minute, to the nearest five seconds."""

    pairs: list[tuple[Pair, Flow]]
    """Those with the most bytes first."""
    beyond: int
    """Hand-overs of pairs that are not among them."""
    whole: int
    """Prompts computed by workers that go on themselves."""


class Handovers:
    """Kept in slots, so that forgetting costs nothing. Times are of any one clock."""

    def __init__(self) -> None:
        self._slots: deque[_Slot] = deque()

    def handed_over(self, timeline: Timeline, now_s: float) -> None:
        """The decode worker's first token came."""
        if timeline.prefill_worker is None or timeline.decode_worker is None:
            return
        slot, pair = self._slot(now_s), (timeline.prefill_worker, timeline.decode_worker)
        if pair not in slot.pairs and len(slot.pairs) >= _MOST_PAIRS:
            slot.beyond += 1
            return
        done = Flow(1, timeline.transfer_bytes, timeline.transfer_s, int(timeline.was_transferred is False))
        slot.pairs.setdefault(pair, Flow()).add(done)

    def kept_whole(self, now_s: float) -> None:
        """A worker has computed a prompt that it goes on with itself."""
        self._slot(now_s).whole += 1

    def recent(self, now_s: float, most: int) -> Recent:
        """The ``most`` pairs that moved most."""
        self._forget(now_s)
        pairs: dict[Pair, Flow] = {}
        for slot in self._slots:
            for pair, flow in slot.pairs.items():
                pairs.setdefault(pair, Flow()).add(flow)
        first = heapq.nlargest(most, pairs.items(), key=lambda item: (item[1].transfer_bytes, item[1].count))
        beyond = sum(slot.beyond for slot in self._slots) + _count(pairs.values()) - _count(flow for _, flow in first)
        return Recent(first, beyond, sum(slot.whole for slot in self._slots))

    def _slot(self, now_s: float) -> _Slot:
        if not self._slots or now_s >= self._slots[-1].begins_s + _SLOT_S:
            self._forget(now_s)
            self._slots.append(_Slot(now_s))
        return self._slots[-1]

    def _forget(self, now_s: float) -> None:
        while self._slots and now_s >= self._slots[0].begins_s + WINDOW_S:
            self._slots.popleft()


def _count(flows: Iterable[Flow]) -> int:
    return sum(flow.count for flow in flows)
