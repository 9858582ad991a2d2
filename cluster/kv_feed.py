"""What a worker tells routers of its engine's cache: the changes, in numbered batches, and all of it to whoever asks. Pure.

The engine numbers its event messages. Where one is missing, or cannot be read, what is cached is not known any more: routers are told
to forget it all, and are told anew of what is stored from then on. Prompts that begin with older blocks stay unknown until those are
evicted and computed again; too little is predicted for them, never too much.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Sized

import msgspec

from cluster.kv_blocks import CachedBlocks
from cluster.messages import KVChanges, KVSnapshot
from core.block_keys import BlockKey, BlockKeys, pack
from core.ids import Epoch
from engine.base import KVEventMessage
from engine.vllm_kv_events import AllBlocksCleared, BlockStored, KVEvent, decode_kv_events, is_local

log = logging.getLogger(__name__)

KEYS_PER_MESSAGE = 8192
"""64 KiB: a message that delays no token by more than a fraction of a millisecond."""


class KVFeed:
    """One life of one engine. ``num_blocks`` is what it can hold: a feed that believes in more has lost count, and starts anew."""

    def __init__(self, epoch: Epoch, block_keys: BlockKeys, num_blocks: int) -> None:
        self.sequence = 0
        """Of the newest changes taken."""
        self._epoch = epoch
        self._num_blocks = num_blocks
        self._blocks = CachedBlocks(block_keys)
        self._next_event = 0
        # Since the changes taken last. For a key that came and went only the last counts.
        self._cleared = False
        self._is_there: dict[BlockKey, bool] = {}

    @property
    def has_news(self) -> bool:
        """Whether there is something to ``take``."""
        return self._cleared or bool(self._is_there)

    def heard(self, message: KVEventMessage) -> None:
        """The engine's next message, or, where some were lost, a later one."""
        if message.sequence != self._next_event:
            self._start_anew(f"event message {message.sequence} came instead of {self._next_event}")
        self._next_event = message.sequence + 1
        try:
            events = decode_kv_events(message.payload)
        except msgspec.DecodeError as error:
            self._start_anew(f"event message {message.sequence} cannot be read: {error}")
            return
        for event in events:
            self._follow(event)
        if len(self._blocks.keys) > self._num_blocks:
            self._start_anew(f"{len(self._blocks.keys)} blocks were told of, and the engine has {self._num_blocks}")

    def take(self) -> list[KVChanges]:
        """What changed since the last call, in messages to be sent in this order; none when nothing did."""
        stored = [key for key, there in self._is_there.items() if there]
        removed = [key for key, there in self._is_there.items() if not there]
        cleared, self._cleared, self._is_there = self._cleared, False, {}
        messages: list[KVChanges] = []
        for part in range(max(_parts(stored), _parts(removed), int(cleared))):
            self.sequence += 1
            first = cleared and part == 0
            messages.append(KVChanges(self._epoch, self.sequence, first, pack(_part(stored, part)), pack(_part(removed, part))))
        return messages

    def snapshot(self, number: int) -> Iterator[KVSnapshot]:
        """All there is at the time of this call, as the answer to ``WantKV`` with that number; parts are made as they are asked for."""
        keys, sequence, parts = list(self._blocks.keys), self.sequence, max(1, _parts(self._blocks.keys))
        return (KVSnapshot(self._epoch, number, sequence, part, part == parts - 1, pack(_part(keys, part))) for part in range(parts))

    def _follow(self, event: KVEvent) -> None:
        if isinstance(event, AllBlocksCleared):
            self._clear()
        elif isinstance(event, BlockStored):
            self._is_there |= dict.fromkeys(self._blocks.stored(event), True)
        elif is_local(event):
            self._is_there |= dict.fromkeys(self._blocks.removed(event.block_hashes), False)

    def _start_anew(self, reason: str) -> None:
        log.warning("kv feed: %s; routers are told to forget what this worker has cached", reason)
        self._clear()

    def _clear(self) -> None:
        self._blocks.clear()
        self._is_there.clear()
        self._cleared = True


def _parts(keys: Sized) -> int:
    return -(-len(keys) // KEYS_PER_MESSAGE)


def _part(keys: Sequence[BlockKey], part: int) -> Sequence[BlockKey]:
    return keys[part * KEYS_PER_MESSAGE : (part + 1) * KEYS_PER_MESSAGE]
