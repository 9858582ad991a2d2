"""Requests that wait for their turn, in order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from engine.sim_sequence import Order, SimSequence


class WaitingQueue:
    """Sorted by ``SimSequence.order``, which must not change while a sequence is here. Ended ones are left out by themselves."""

    def __init__(self) -> None:
        self._heap: list[tuple[Order, SimSequence]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[SimSequence]:
        """All of them, in no order."""
        return (sequence for _, sequence in self._heap if not sequence.ended)

    def push(self, sequence: SimSequence) -> None:
        heapq.heappush(self._heap, (sequence.order, sequence))
        self._count += 1

    def peek(self) -> SimSequence | None:
        """The next; None without any."""
        while self._heap:
            sequence = self._heap[0][1]
            if not sequence.ended:
                return sequence
            heapq.heappop(self._heap)
        return None

    def pop(self) -> SimSequence:
        """Takes what ``peek`` has just shown."""
        self._count -= 1
        return heapq.heappop(self._heap)[1]

    def forget_ended(self) -> None:
        """One sequence in here has ended."""
        self._count -= 1
