"""The reader's side of a lease: after a prompt's blocks have come, is its lease word still what the handle said?

Speaks to a NIXL agent, which it is given; see ``lease_words`` for why a word that is still there proves the blocks right.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kv_transfer.quarantine import outcome

_WORD_BYTES = 8
_SLOTS = 1024
"""Words that can be on their way at once. Only silent peers let them pile up; without a free one a pull counts as failed."""
_POLL_S = 0.001
"""How long an engine step waits for words just asked for: 0.01 ms on one host, 0.1 ms over TCP, and the next step is far away."""


@dataclass(slots=True)
class _Pull:
    """One leg's way here."""

    number: int
    addresses: Sequence[int]
    """Of the word, by the keeper's rank."""
    sources: list[tuple[str, int]] = field(default_factory=list)
    """NIXL agent and rank of every keeper rank blocks were read from."""
    started_at_s: float = 0.0
    words: list[tuple[Any, int]] = field(default_factory=list)
    """Handle and slot of word reads under way."""
    checking: bool = False
    valid: bool = True


class PullCheck:
    """All pulls of one rank, from the first block read to the verdict.

    In this order: ``expect``, ``reading`` for each source, ``check`` when all blocks are here, ``verdicts`` in every step,
    ``forget``. ``timeout_s`` is how long all of it may take.
    """

    def __init__(self, nixl: Any, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._nixl = nixl
        self._timeout_s = timeout_s
        self._clock = clock
        self._pulls: dict[str, _Pull] = {}
        self._fresh: set[str] = set()
        self._buffer = np.zeros(_SLOTS, dtype=np.int64)
        self._free = deque(range(_SLOTS))
        self._abandoned: list[tuple[Any, int]] = []
        self.address = int(self._buffer.ctypes.data)
        self.num_bytes = int(self._buffer.nbytes)

    def expect(self, leases: Mapping[str, tuple[int, Sequence[int]]]) -> None:
        """These legs are about to be pulled: number and addresses of the lease word of each."""
        for leg, (number, addresses) in leases.items():
            self._pulls[leg] = _Pull(number, addresses)

    def reading(self, leg: str, agent: str, rank: int) -> None:
        """A read of blocks was posted."""
        pull = self._pulls.setdefault(leg, _Pull(0, ()))  # a leg nobody announced has no number, so it fails its check
        pull.started_at_s = pull.started_at_s or self._clock()
        pull.sources.append((agent, rank))

    def check(self, leg: str) -> bool:
        """All blocks are here: asks for the words. False where nothing was read, so that there is nothing to check."""
        pull = self._pulls.get(leg)
        if pull is None or not pull.sources:
            return False
        pull.checking = True
        self._fresh.add(leg)
        for agent, rank in pull.sources:
            pull.valid = pull.valid and 0 <= rank < len(pull.addresses) and self._ask(pull, agent, pull.addresses[rank])
        return True

    def checking(self, leg: str) -> bool:
        """Whether ``check`` was called and the verdict is not out."""
        return leg in self._pulls and self._pulls[leg].checking

    def verdicts(self) -> dict[str, bool]:
        """Checks that have ended since the last call: whether the leg's blocks may be used. Waits a moment for new ones."""
        deadline_s = self._clock() + _POLL_S
        told: dict[str, bool] = {}
        while True:
            for leg, pull in self._pulls.items():
                if pull.checking and self._ended(pull):
                    pull.checking = False
                    told[leg] = pull.valid
            self._fresh.difference_update(told)
            if not self._fresh or self._clock() >= deadline_s:
                break
        self._fresh.clear()
        self._abandoned = [read for read in self._abandoned if not self._put_back(read)]
        return told

    def overdue(self) -> list[str]:
        """Legs whose blocks or words have not come in time."""
        late_s = self._clock() - self._timeout_s
        return [leg for leg, pull in self._pulls.items() if pull.sources and pull.started_at_s <= late_s]

    def forget(self, leg: str) -> None:
        """The leg's pull is over, one way or another. Unknown legs are ignored."""
        pull = self._pulls.pop(leg, None)
        if pull is not None:
            self._abandoned += pull.words

    def _ask(self, pull: _Pull, agent: str, address: int) -> bool:
        if not self._free:
            return False
        slot = self._free.popleft()
        self._buffer[slot] = 0
        here = self._nixl.get_xfer_descs([(self.address + slot * _WORD_BYTES, _WORD_BYTES, 0)], "DRAM")
        there = self._nixl.get_xfer_descs([(address, _WORD_BYTES, 0)], "DRAM")
        handle = None
        try:
            handle = self._nixl.initialize_xfer("READ", here, there, agent)
            self._nixl.transfer(handle)
        except Exception:  # NIXL raises a type of its own for each reason; whichever it is, the word cannot be read
            self._abandoned.append((handle, slot))
            return False
        pull.words.append((handle, slot))
        return True

    def _ended(self, pull: _Pull) -> bool:
        """Takes in the words that have come; whether none is left to wait for."""
        waiting = []
        for handle, slot in pull.words:
            arrived = outcome(self._nixl, handle)
            if arrived is None:
                waiting.append((handle, slot))
                continue
            pull.valid = pull.valid and arrived and int(self._buffer[slot]) == pull.number
            self._free.append(slot)
        pull.words = waiting
        return not waiting

    def _put_back(self, read: tuple[Any, int]) -> bool:
        """Whether nothing will be written to a slot any more; then it can be used again."""
        handle, slot = read
        if handle is not None and outcome(self._nixl, handle) is None:
            return False
        self._free.append(slot)
        return True
