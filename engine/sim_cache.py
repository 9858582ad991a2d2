"""What the simulated engine's requests hold of its KV cache."""

from __future__ import annotations

from engine.sim_blocks import BlockPool, BlocksStored
from engine.sim_request import SimSequence


class SequenceCache:
    """Gives sequences their blocks of a pool, makes what they computed findable, and takes the blocks back."""

    def __init__(self, pool: BlockPool, block_size_tokens: int) -> None:
        self._pool = pool
        self._size = block_size_tokens

    def blocks_for(self, tokens: int) -> int:
        """Blocks that ``tokens`` tokens fill, the last one perhaps in part."""
        return -(-tokens // self._size)

    def place(self, sequence: SimSequence) -> bool:
        """Gives a sequence blocks for all its tokens, with known content from the start on where there is any.

        Its last token never counts as known. False, and no change, without room.
        """
        found = self._pool.find(sequence.hash_blocks((len(sequence.tokens) - 1) // self._size, self._size))
        new = self.blocks_for(len(sequence.tokens)) - len(found)
        if not self._pool.fits(found, new):
            return False
        self._pool.hold(found)
        sequence.blocks = found + (self._pool.take(new) or [])
        sequence.stored = len(found)
        sequence.computed = len(found) * self._size
        return True

    def grow(self, sequence: SimSequence, tokens: int) -> bool:
        """Makes room for ``tokens`` tokens in all; False, and no change, without."""
        missing = self.blocks_for(tokens) - len(sequence.blocks)
        if missing <= 0:
            return True
        taken = self._pool.take(missing)
        sequence.blocks.extend(taken or [])
        return taken is not None

    def store(self, sequence: SimSequence) -> None:
        """Makes the full blocks of a sequence findable."""
        first, full = sequence.stored, sequence.computed // self._size
        if full <= first:
            return
        hashes = sequence.hash_blocks(full, self._size)
        parent, salt = (hashes[first - 1], None) if first else (None, sequence.request.salt)
        token_ids = sequence.tokens[first * self._size : full * self._size]
        self._pool.store(sequence.blocks[first:full], BlocksStored(hashes[first:], parent, token_ids, salt))
        sequence.stored = full

    def drop(self, sequence: SimSequence) -> None:
        """Takes all blocks back; the sequence has computed nothing then."""
        self._pool.drop(sequence.blocks)
        sequence.blocks, sequence.computed, sequence.stored = [], 0, 0
