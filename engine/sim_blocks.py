"""The simulated KV cache: a pool of equal blocks, some held by requests, some free but still holding a known prefix."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import NewType

import msgspec

BlockHash = NewType("BlockHash", int)
"""64 bits that name a full block's tokens and all tokens before them. The same in every process."""


class BlocksStored(msgspec.Struct, frozen=True):
    """Consecutive full blocks of one prompt can now be found by their hashes."""

    hashes: Sequence[BlockHash]
    parent: BlockHash | None
    """Hash of the block before the first one; None where the prompt starts."""
    token_ids: Sequence[int]
    salt: str | None
    """What the first block of a prompt is hashed with beside its tokens; None where ``parent`` is set."""
    adapter: str | None = None
    """The LoRA adapter that all of them are computed with."""


class BlocksRemoved(msgspec.Struct, frozen=True):
    """These blocks were given to somebody else. A content with copies is removed once for each."""

    hashes: Sequence[BlockHash]


class BlocksCleared(msgspec.Struct, frozen=True):
    """Nothing can be found any more."""


BlockEvent = BlocksStored | BlocksRemoved | BlocksCleared


def hash_block(parent: BlockHash | None, token_ids: Sequence[int], salt: str | None) -> BlockHash:
    """The hash of one full block; ``salt`` counts only without a ``parent``, as the chain carries it on."""
    digest = hashlib.blake2b(array("I", token_ids).tobytes(), digest_size=8)
    if parent is not None:
        digest.update(parent.to_bytes(8, "big"))
    elif salt is not None:
        digest.update(salt.encode())
    return BlockHash(int.from_bytes(digest.digest(), "big"))


def root_of(adapter: str | None, salt: str | None) -> str | None:
    """What the first block of a prompt with this adapter and salt is hashed with, in ``salt``'s place."""
    return salt if adapter is None else f"{adapter}\0{salt or ''}"


class BlockPool:
    """Blocks by number. A block is held by at least one holder or free; a free one keeps its content until it is needed.

    ``find`` and ``fits`` change nothing; what they say holds until the next call of another method.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._holders = [0] * num_blocks
        self._empty = list(range(num_blocks - 1, -1, -1))
        """Free blocks without a known content: taken first, the last of them before all."""
        self._cached: OrderedDict[int, None] = OrderedDict()
        """The other free ones: taken after those, those first that were not needed for longest."""
        self._hash_of: dict[int, BlockHash] = {}
        self._blocks_of: dict[BlockHash, int | dict[int, None]] = {}
        """One block, or all copies of a content, oldest first: as in vLLM, prompts computed at the same time are not made to share."""
        self._events: list[BlockEvent] = []

    @property
    def free_blocks(self) -> int:
        return len(self._empty) + len(self._cached)

    @property
    def has_events(self) -> bool:
        """Whether ``take_events`` would give any."""
        return bool(self._events)

    def find(self, hashes: Sequence[BlockHash]) -> list[int]:
        """The blocks of the longest known beginning of ``hashes``."""
        found: list[int] = []
        for block_hash in hashes:
            blocks = self._blocks_of.get(block_hash)
            if blocks is None:
                break
            found.append(blocks if isinstance(blocks, int) else next(iter(blocks)))
        return found

    def fits(self, found: Sequence[int], new: int) -> bool:
        """Whether ``found`` blocks can be held and ``new`` ones taken at the same time."""
        return new + sum(1 for block in found if not self._holders[block]) <= self.free_blocks

    def hold(self, found: Sequence[int]) -> None:
        """Adds a holder to blocks with known content."""
        for block in found:
            self._cached.pop(block, None)
            self._holders[block] += 1

    def take(self, count: int) -> list[int] | None:
        """Gives ``count`` free blocks to a new holder and forgets their content; None, and no change, where there are fewer."""
        if count > self.free_blocks:
            return None
        empty = self._empty
        taken = [empty.pop() if empty else self._cached.popitem(last=False)[0] for _ in range(count)]
        removed: list[BlockHash] = []
        for block in taken:
            self._holders[block] = 1
            block_hash = self._hash_of.pop(block, None)
            if block_hash is not None:
                self._forget(block, block_hash)
                removed.append(block_hash)
        if removed:
            self._events.append(BlocksRemoved(removed))
        return taken

    def drop(self, blocks: Sequence[int]) -> None:
        """Takes one holder off each block of one request, in prompt order."""
        for block in reversed(blocks):  # the end of a prompt is of less use to others than its beginning
            self._holders[block] -= 1
            if not self._holders[block]:
                if block in self._hash_of:
                    self._cached[block] = None
                else:
                    self._empty.append(block)

    def store(self, blocks: Sequence[int], stored: BlocksStored) -> None:
        """Makes held, full ``blocks`` findable; of copies the oldest is found."""
        for block, block_hash in zip(blocks, stored.hashes, strict=True):
            known = self._blocks_of.get(block_hash)
            if known is None:
                self._blocks_of[block_hash] = block
            elif isinstance(known, int):
                self._blocks_of[block_hash] = {known: None, block: None}
            else:
                known[block] = None
            self._hash_of[block] = block_hash
        self._events.append(stored)

    def clear(self) -> bool:
        """Forgets every content. False, and no change, while any block is held."""
        if self.free_blocks < self.num_blocks:
            return False
        self._hash_of.clear()
        self._blocks_of.clear()
        self._events.append(BlocksCleared())
        return True

    def _forget(self, block: int, block_hash: BlockHash) -> None:
        """A block no longer holds a content; others may."""
        known = self._blocks_of[block_hash]
        if isinstance(known, int):
            del self._blocks_of[block_hash]
            return
        del known[block]
        if len(known) == 1:
            [self._blocks_of[block_hash]] = known

    def take_events(self) -> list[BlockEvent]:
        """What happened since the last call, oldest first."""
        events, self._events = self._events, []
        return events
