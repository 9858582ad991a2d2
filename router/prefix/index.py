"""Which workers have which blocks cached. Pure; follows whatever it is told.

A dictionary from key to a bit mask of workers, so that one walk along a prompt's keys finds what all workers have of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from core.block_keys import BlockKey
from core.ids import WorkerId

DEFAULT_BUDGET_BLOCKS = 2_000_000


class PrefixIndex:
    """``budget_blocks`` bounds the memory, 150 to 200 bytes a block; a block on three workers counts three times.

    Beyond it the blocks told of longest ago go first, those that were part of a hit since they were last considered excepted; of those
    told of at once the last, as in engines: a prompt without its end is worth most of it, one without its beginning nothing. Their
    workers seem to have less then than they have.
    """

    def __init__(self, budget_blocks: int = DEFAULT_BUDGET_BLOCKS) -> None:
        self._budget = budget_blocks
        self._blocks = 0
        self._holders: dict[BlockKey, int] = {}
        """Those to go first are first. Never 0."""
        self._keys: dict[WorkerId, set[BlockKey]] = {}
        self._bits: dict[WorkerId, int] = {}
        self._workers: dict[int, WorkerId] = {}
        self._taken = 0
        """All their bits."""
        self._used: set[BlockKey] = set()
        """Part of a hit since they were last considered. Kept only when the budget is nearly spent."""

    def __len__(self) -> int:
        """Blocks, each as often as there are workers that have it."""
        return self._blocks

    def stored(self, worker: WorkerId, keys: Sequence[BlockKey]) -> None:
        """The worker has these now, in the order of their prompts; it may have had some before. For whomever they were known, they are
        new again."""
        bit = self._bits.get(worker) or self._enter(worker)
        holders = self._holders
        take = holders.pop
        for key in reversed(keys):
            mask = take(key, None)
            holders[key] = bit if mask is None else mask | bit  # mostly the worker's one object, so that an entry costs no integer
        held = self._keys[worker]
        before = len(held)
        held.update(keys)
        self._blocks += len(held) - before
        if self._blocks > self._budget:
            self._drop_oldest()

    def removed(self, worker: WorkerId, keys: Sequence[BlockKey]) -> None:
        """The worker does not have these any more; it may not have had some."""
        held = self._keys.get(worker)
        if held is None:
            return
        bit, holders = self._bits[worker], self._holders
        for key in keys:
            if key not in held:
                continue
            held.discard(key)
            self._blocks -= 1
            mask = holders[key] ^ bit
            if mask:
                holders[key] = mask
            else:
                del holders[key]
                self._used.discard(key)

    def forget(self, worker: WorkerId) -> None:
        """Nothing is known of this worker any more. The one costly call: 0.2 us and more for each of its blocks."""
        held = self._keys.pop(worker, None)
        if held is None:
            return
        bit, holders = self._bits.pop(worker), self._holders
        del self._workers[bit]
        self._taken ^= bit
        self._blocks -= len(held)
        for key in held:
            mask = holders[key] ^ bit
            if mask:
                holders[key] = mask
            else:
                del holders[key]
        if self._used:
            self._used &= holders.keys()

    def has(self, worker: WorkerId, key: BlockKey) -> bool:
        """Whether the worker has this one block."""
        held = self._keys.get(worker)
        return held is not None and key in held

    def held_by(self, worker: WorkerId) -> frozenset[BlockKey]:
        """All a worker has: a copy."""
        return frozenset(self._keys.get(worker, ()))

    def hits(self, keys: Sequence[BlockKey]) -> dict[WorkerId, int]:
        """How many of a prompt's blocks, from the first on, each worker has. Those with none are left out."""
        found: dict[WorkerId, int] = {}
        get = self._holders.get
        number, mask = 0, get(keys[0], 0) if keys else 0
        if not mask:
            return found
        for number, key in enumerate(keys):
            held = get(key, 0)
            if held == mask:
                continue
            if gone := mask & ~held:
                found.update(dict.fromkeys(self._in(gone), number))
                mask &= held
            if not mask:
                break
        else:
            number = len(keys)
            found.update(dict.fromkeys(self._in(mask), number))
        if self._blocks > self._budget * 3 // 4:
            self._used.update(keys[:number])
        return found

    def _in(self, mask: int) -> Iterator[WorkerId]:
        while mask:
            bit = mask & -mask
            yield self._workers[bit]
            mask ^= bit

    def _enter(self, worker: WorkerId) -> int:
        """The lowest bit that is free: masks stay as short as there are workers."""
        bit = ~self._taken & (self._taken + 1)
        self._taken |= bit
        self._bits[worker], self._workers[bit], self._keys[worker] = bit, worker, set()
        return bit

    def _drop_oldest(self) -> None:
        """A little more than is needed, as looking for the oldest has its price each time."""
        while self._blocks > self._budget:
            for key in list(islice(self._holders, max(1, len(self._holders) // 64))):
                mask = self._holders.pop(key)
                if key in self._used:  # once more round
                    self._used.discard(key)
                    self._holders[key] = mask
                    continue
                for worker in self._in(mask):
                    self._keys[worker].discard(key)
                    self._blocks -= 1
