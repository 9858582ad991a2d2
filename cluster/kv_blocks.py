"""Which blocks an engine's cache has, under the keys that routers know: follows the engine's own events. Pure book-keeping."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from core.block_keys import BlockKey, BlockKeys
from engine.vllm_kv_events import BlockStored, EngineHash, is_local, plain_beginning


@dataclass(slots=True)
class _Block:
    """What the engine calls by one hash. ``copies``: vLLM has several where equal prompts were computed at the same time."""

    key: BlockKey
    place: int
    copies: int = 1


class CachedBlocks:
    """One engine's blocks, as far as they are named by tokens, LoRA adapter and salt alone.

    Left out, with all that follows them in their prompts: blocks with images or other items in them and blocks of embeddings (routers
    would have to hash the items as vLLM does), blocks of another size (parts of blocks), and those whose beginning is not known.
    """

    def __init__(self, block_keys: BlockKeys) -> None:
        self._block_keys = block_keys
        self._blocks: dict[EngineHash, _Block] = {}
        self._names: dict[BlockKey, int] = {}
        """How many of the engine's hashes stand for one key. More than one where an adapter's name was given to another adapter."""

    @property
    def keys(self) -> Collection[BlockKey]:
        """All that are there now. Changes with the next call of another method."""
        return self._names.keys()

    def stored(self, event: BlockStored) -> list[BlockKey]:
        """The keys that are there from now on and were not before."""
        size = self._block_keys.block_size_tokens
        if not is_local(event) or event.block_size != size or len(event.token_ids) != size * len(event.block_hashes):
            return []
        count, salt = plain_beginning(event)
        if event.parent_block_hash is None:
            parent, place = self._block_keys.root(salt, event.lora_name), 0
        elif (before := self._blocks.get(event.parent_block_hash)) is not None:
            parent, place = before.key, before.place + 1
        else:
            return []
        keys = self._block_keys.following(parent, place, event.token_ids[: count * size])
        return [key for number, key in enumerate(keys) if self._add(event.block_hashes[number], key, place + number)]

    def removed(self, hashes: Sequence[EngineHash]) -> list[BlockKey]:
        """The keys that were there and are not any more."""
        return [block.key for name in hashes if (block := self._drop(name)) is not None]

    def clear(self) -> None:
        """Nothing is there any more."""
        self._blocks.clear()
        self._names.clear()

    def _add(self, name: EngineHash, key: BlockKey, place: int) -> bool:
        known = self._blocks.get(name)
        if known is not None:
            known.copies += 1
            return False
        self._blocks[name] = _Block(key, place)
        self._names[key] = self._names.get(key, 0) + 1
        return self._names[key] == 1

    def _drop(self, name: EngineHash) -> _Block | None:
        """The block, if its key is gone with it."""
        block = self._blocks.get(name)
        if block is None:
            return None
        block.copies -= 1
        if block.copies:
            return None
        del self._blocks[name]
        self._names[block.key] -= 1
        if self._names[block.key]:
            return None
        del self._names[block.key]
        return block
