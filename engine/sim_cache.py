"""What the simulated engine's requests hold of its KV cache."""

from __future__ import annotations

from collections.abc import Sequence

from engine.sim_blocks import BlockPool, BlocksStored
from engine.sim_sequence import SimSequence


class SequenceCache:
    """Gives sequences their blocks of a pool, makes what they compute findable, and takes the blocks back."""

    def __init__(self, pool: BlockPool, block_size_tokens: int) -> None:
        self._pool = pool
        self._size = block_size_tokens

    def blocks_for(self, tokens: int) -> int:
        """Blocks that ``tokens`` tokens fill, the last one perhaps in part."""
        return -(-tokens // self._size)

    def missing(self, sequence: SimSequence, tokens: int) -> int:
        """Blocks a sequence lacks to hold ``tokens`` tokens; negative where it has more than it needs."""
        return -(-tokens // self._size) - len(sequence.blocks)

    def find(self, sequence: SimSequence) -> list[int]:
        """Blocks that hold a sequence's beginning already. Its last token never counts as known."""
        return self._pool.find(sequence.hashes((sequence.length - 1) // self._size, self._size))

    def fits(self, found: Sequence[int], tokens: int, spare_blocks: int) -> bool:
        """Whether ``tokens`` tokens whose beginning was ``found`` have room, with ``spare_blocks`` free ones left."""
        return self._pool.fits(found, self.blocks_for(tokens) - len(found) + spare_blocks)

    def place(self, sequence: SimSequence, found: Sequence[int], tokens: int) -> None:
        """Gives a sequence without blocks those ``found``, and new ones up to ``tokens`` tokens; they must fit."""
        self._pool.hold(found)
        sequence.blocks = [*found, *(self._pool.take(self.blocks_for(tokens) - len(found)) or ())]
        sequence.stored = len(found)
        sequence.computed = len(found) * self._size

    def grow(self, sequence: SimSequence, tokens: int) -> bool:
        """Makes room for ``tokens`` tokens in all; False, and no change, without."""
        missing = -(-tokens // self._size) - len(sequence.blocks)
        if missing <= 0:
            return True
        taken = self._pool.take(missing)
        sequence.blocks.extend(taken or ())
        return taken is not None

    def store(self, sequence: SimSequence, tokens: int) -> None:
        """Makes the full blocks of a sequence's first ``tokens`` tokens findable, as far as they have a name."""
        first, full = sequence.stored, tokens // self._size
        if full <= first:
            return
        sequence.stored = full
        hashes = sequence.hashes(full, self._size)
        named = len(hashes)
        if named <= first:
            return
        parent, salt = (hashes[first - 1], None) if first else (None, sequence.request.salt)
        token_ids = sequence.content.token_ids(first * self._size, named * self._size)
        self._pool.store(sequence.blocks[first:named], BlocksStored(hashes[first:], parent, token_ids, salt, sequence.request.adapter))

    def drop(self, sequence: SimSequence) -> None:
        """Takes all blocks back; the sequence has computed nothing then."""
        self._pool.drop(sequence.blocks)
        sequence.blocks, sequence.computed, sequence.stored = [], 0, 0
