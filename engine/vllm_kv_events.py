"""vLLM's KV events as Baton reads them: the fields it needs, under vLLM's names, without importing vLLM.

``tests/unit/test_vllm_kv_events.py`` holds these to vLLM's own structs.
"""

from __future__ import annotations

from typing import Any

import msgspec

EngineHash = int | bytes
"""What an engine calls a block; bytes where vLLM is told not to shorten them."""


class BlockStored(msgspec.Struct, frozen=True, tag=True):
    """Consecutive full blocks of one prompt can be found from now on."""

    block_hashes: list[EngineHash]
    parent_block_hash: EngineHash | None
    """The block before the first of them; None where the prompt starts."""
    token_ids: list[int]
    block_size: int
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    """Per block, what it is hashed with beside tokens, in this order: the LoRA name, ``[identifier, offset]`` of every image or the
    like in it, the cache salt (first block only), bytes for prompt embeddings."""
    group_idx: int | None = None
    locality: str | None = None


class BlockRemoved(msgspec.Struct, frozen=True, tag=True):
    """One copy of each of these blocks is gone. vLLM has several where equal prompts were computed at the same time."""

    block_hashes: list[EngineHash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True, tag=True):
    """The cache is empty."""


KVEvent = BlockStored | BlockRemoved | AllBlocksCleared


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    ts: float
    events: list[KVEvent]


_decoder = msgspec.msgpack.Decoder(_Batch)


def decode_kv_events(payload: bytes) -> list[KVEvent]:
    """The events of one message, in order. Raises msgspec.DecodeError for what is none."""
    return _decoder.decode(payload).events


def is_local(event: BlockStored | BlockRemoved) -> bool:
    """Whether it is about blocks in the engine's own working memory, of the first kind of layer.

    Copies in host memory, on disk or elsewhere take time to fetch and have events of their own. Models with several kinds of layers
    have one set of blocks per kind; a prompt's are stored together, so the first kind speaks for all.
    """
    return event.medium in {None, "GPU"} and event.locality in {None, "LOCAL"} and not event.group_idx


def plain_beginning(event: BlockStored) -> tuple[int, str | None]:
    """How many blocks, from the first on, are named by tokens, LoRA adapter and salt alone; and the salt, told where a prompt starts."""
    salt: str | None = None
    for number, keys in enumerate(event.extra_keys or ()):
        rest = list(keys or ())
        if event.lora_name is not None and rest[:1] == [event.lora_name]:
            del rest[0]
        if number == 0 and event.parent_block_hash is None and len(rest) == 1 and isinstance(rest[0], str):
            salt = rest.pop()
        if rest:
            return number, salt
    return len(event.block_hashes), salt
