"""Keeps what the index says of one worker equal to what that worker has: messages in, changes of the index out. Pure; told the time.

All that the worker has is asked for and comes in parts, while changes that come meanwhile wait. From then on every change is applied in
its turn. Whatever does not fit begins this anew: a number left out, a pulse that knows of later changes, parts that do not come.
"""

from __future__ import annotations

import math

from cluster.messages import KVChanges, KVSnapshot, Pulse, WantKV
from core.block_keys import unpack
from core.ids import WorkerId
from router.prefix.index import PrefixIndex

_PATIENCE_S = 5.0
"""Without another part of an answer, before all is asked for again."""
_MOST_WAITING = 1024
"""Changes that wait for an answer. With more, a later answer is the better one."""


class Follower:
    """One life of one worker. What it returns is to be sent there; messages may come in any order, and more than once."""

    def __init__(self, worker: WorkerId, index: PrefixIndex) -> None:
        self._worker = worker
        self._index = index
        self._sequence: int | None = None
        """Of the newest changes that are in the index; None while an answer is waited for."""
        self._number = 0
        """Of what was asked last. Never used again, or an answer read late would be taken for a new one."""
        self._heard_at_s = -math.inf
        """When that was, or when a part of the answer came."""
        self._parts: set[int] = set()
        self._last_part: int | None = None
        self._waiting: dict[int, KVChanges] = {}

    @property
    def is_current(self) -> bool:
        """Whether the index has all that was heard of."""
        return self._sequence is not None

    def heard(self, message: KVChanges | KVSnapshot | Pulse, now: float) -> WantKV | None:
        """The worker's next message, or one that is late."""
        if isinstance(message, KVSnapshot):
            return self._part(message, now)
        if isinstance(message, KVChanges):
            return self._changes(message, now)
        if self._sequence is None:
            return self._ask_if_overdue(now)
        return self._ask(now) if message.kv_sequence > self._sequence else None

    def lost(self) -> None:
        """The connection broke: nothing is known of the worker until it is heard again."""
        self._index.forget(self._worker)
        self._sequence, self._heard_at_s = None, -math.inf
        self._parts, self._last_part = set(), None
        self._number += 1  # parts that were on their way are read late: the ones before them are forgotten

    def _changes(self, changes: KVChanges, now: float) -> WantKV | None:
        if self._sequence is None:
            self._waiting[changes.sequence] = changes
            if len(self._waiting) <= _MOST_WAITING:
                return self._ask_if_overdue(now)
            self._waiting.clear()
            return self._ask(now)
        if changes.sequence == self._sequence + 1:
            self._apply(changes)
        elif changes.sequence > self._sequence:
            self._waiting[changes.sequence] = changes
            return self._ask(now)
        return None

    def _part(self, part: KVSnapshot, now: float) -> WantKV | None:
        if self._sequence is not None or part.number != self._number:
            return None
        if not self._parts:  # until now, old knowledge was better than none
            self._index.forget(self._worker)
        self._index.stored(self._worker, unpack(part.keys))
        self._heard_at_s = now
        self._parts.add(part.part)
        if part.last:
            self._last_part = part.part
        if self._last_part is None or len(self._parts) <= self._last_part:
            return None
        self._sequence = part.sequence
        return self._catch_up(now)

    def _catch_up(self, now: float) -> WantKV | None:
        """Applies what came meanwhile."""
        assert self._sequence is not None
        for number in sorted(self._waiting):
            if number > self._sequence + 1:
                return self._ask(now)
            changes = self._waiting.pop(number)
            if number > self._sequence:
                self._apply(changes)
        return None

    def _apply(self, changes: KVChanges) -> None:
        if changes.cleared:
            self._index.forget(self._worker)
        self._index.removed(self._worker, unpack(changes.removed))
        self._index.stored(self._worker, unpack(changes.stored))
        self._sequence = changes.sequence

    def _ask_if_overdue(self, now: float) -> WantKV | None:
        return self._ask(now) if now - self._heard_at_s >= _PATIENCE_S else None

    def _ask(self, now: float) -> WantKV:
        self._sequence, self._heard_at_s = None, now
        self._parts, self._last_part = set(), None
        self._number += 1
        return WantKV(self._number)
