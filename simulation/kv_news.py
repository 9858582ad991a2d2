"""What a simulated worker tells routers of its cache; ``cluster.kv_feed`` and ``cluster.kv_publisher`` without vLLM's messages."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.kv_feed import KEYS_PER_MESSAGE
from cluster.messages import KVChanges, KVSnapshot
from core.block_keys import BlockKey, pack
from core.ids import Epoch
from engine.sim_blocks import BlockEvent, BlocksCleared, BlocksStored


class KVNews:
    """One life of one engine. Its block hashes are the routers' keys."""

    def __init__(self, epoch: Epoch) -> None:
        self.sequence = 0
        """Of the newest changes taken."""
        self._epoch = epoch
        self._copies: dict[BlockKey, int] = {}
        """Of every block there is. The engine tells of each."""
        self._is_there: dict[BlockKey, bool] = {}
        self._cleared = False

    @property
    def has_news(self) -> bool:
        """Whether there is something to ``take``."""
        return self._cleared or bool(self._is_there)

    def heard(self, events: Sequence[BlockEvent]) -> None:
        """What the engine says, oldest first."""
        for event in events:
            if isinstance(event, BlocksCleared):
                self._cleared = True
                self._copies.clear()
                self._is_there.clear()
                continue
            stored = isinstance(event, BlocksStored)
            for block_hash in event.hashes:
                key = BlockKey(block_hash)
                copies = self._copies.pop(key, 0) + (1 if stored else -1)
                if copies > 0:
                    self._copies[key] = copies
                if copies == int(stored):
                    self._is_there[key] = stored

    def take(self) -> KVChanges:
        """What changed since the last call."""
        self.sequence += 1
        stored = [key for key, there in self._is_there.items() if there]
        removed = [key for key, there in self._is_there.items() if not there]
        cleared, self._cleared, self._is_there = self._cleared, False, {}
        return KVChanges(self._epoch, self.sequence, cleared, pack(stored), pack(removed))

    def snapshot(self, number: int) -> list[KVSnapshot]:
        """All there is, as the answer to ``WantKV`` with that number."""
        keys = list(self._copies)
        parts = [keys[first : first + KEYS_PER_MESSAGE] for first in range(0, len(keys), KEYS_PER_MESSAGE)] or [[]]
        return [KVSnapshot(self._epoch, number, self.sequence, part, part == len(parts) - 1, pack(some)) for part, some in enumerate(parts)]
