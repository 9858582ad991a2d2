"""Lease words: one number per kept prompt in memory that other engines can read, there exactly while its blocks are kept.

A reader copies blocks by one-sided reads, so nobody can tell it that they were given to somebody else meanwhile. Therefore it
reads one word more, after the blocks, and uses them only if the word still holds the number its handle names:

1. A number is written once in an engine's life, before its handle can exist, and is erased before its blocks can be reused.
2. The reader asks for the word only when all block reads have ended.
3. So if it finds the number, the word was erased later than every block was read, and the blocks were reused later still.

No clock is compared, and the other engine's steps are not waited for.
"""

from __future__ import annotations

import itertools
import secrets
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

LEASE_KEY = "baton_lease"
"""In a handle's transfer parameters: the lease's number, and where its word is on each tensor-parallel rank of the keeper."""

_WORD_BYTES = 8
_ENDED = 0


class WordOrder(NamedTuple):
    """What the scheduler tells every rank: this leg's word is in ``slot`` and holds ``number`` from now on (0: nothing)."""

    leg: str
    slot: int
    number: int


class LeaseBook:
    """The scheduler's side: which leg has which number and slot. A slot has one leg at a time."""

    def __init__(self, slots: int) -> None:
        # Not from 1: should a read ever reach another process's memory, what is there is not such a number by chance.
        self._numbers = itertools.count(1 + secrets.randbits(60))
        self._free = deque(range(slots))
        self._words: dict[str, WordOrder] = {}
        self._orders: list[WordOrder] = []
        self._addresses: tuple[int, ...] = ()

    def locate(self, address_of_rank: Mapping[int, int]) -> None:
        """Where each rank's words are."""
        self._addresses = tuple(address_of_rank[rank] for rank in sorted(address_of_rank))

    def open(self, leg: str) -> None:
        """Gives a leg that may be kept a number. Again: no change. Without a free slot it gets none, and will not be read."""
        if leg not in self._words and self._free:
            self._words[leg] = WordOrder(leg, self._free.popleft(), next(self._numbers))
            self._orders.append(self._words[leg])

    def close(self, leg: str) -> None:
        """Ends a leg's number: its blocks are free. Unknown legs are ignored."""
        word = self._words.pop(leg, None)
        if word is not None:
            self._free.append(word.slot)
            self._orders.append(word._replace(number=_ENDED))

    def transfer_params(self, leg: str) -> dict[str, Any]:
        """What a handle on this leg's blocks has to carry; empty for a leg without a number."""
        word = self._words.get(leg)
        if word is None:
            return {}
        return {LEASE_KEY: [word.number, [address + word.slot * _WORD_BYTES for address in self._addresses]]}

    def take_orders(self) -> list[WordOrder]:
        """What the ranks have not been told yet; to be carried out in this order."""
        orders, self._orders = self._orders, []
        return orders


class LeaseWords:
    """One rank's words. ``address`` and ``num_bytes`` say which memory other engines must be able to read."""

    def __init__(self, slots: int) -> None:
        self._words = np.full(slots, _ENDED, dtype=np.int64)
        self._slots: dict[str, int] = {}
        self.address = int(self._words.ctypes.data)
        self.num_bytes = int(self._words.nbytes)

    def obey(self, orders: Iterable[WordOrder]) -> None:
        """Carries out what ``LeaseBook.take_orders`` said."""
        for leg, slot, number in orders:
            self._words[slot] = number
            if number == _ENDED:
                self._slots.pop(leg, None)
            else:
                self._slots[leg] = slot

    def erase(self, legs: Iterable[str]) -> None:
        """Must be called before anybody is told that these legs' blocks are free. Unknown legs are ignored."""
        for leg in legs:
            slot = self._slots.pop(leg, None)
            if slot is not None:
                self._words[slot] = _ENDED
