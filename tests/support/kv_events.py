"""KV event messages as an engine sends them, made by hand. Blocks have one token."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.base import KVEventMessage
from engine.vllm_kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEvent


def stored(hashes: list[int], tokens: list[int], parent: int | None = None, **more: Any) -> BlockStored:
    """Blocks of one token each."""
    return BlockStored(list(hashes), parent, tokens, 1, "GPU", **more)


def removed(*hashes: int) -> BlockRemoved:
    return BlockRemoved(list(hashes), "GPU")


CLEARED = AllBlocksCleared()


def message(sequence: int, *events: KVEvent) -> KVEventMessage:
    return KVEventMessage(sequence, msgspec.msgpack.encode([0.0, list(events)]))
