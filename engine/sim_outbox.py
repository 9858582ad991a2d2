"""A queue between a running engine and whoever asks it for news."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """First in, first out. A cancelled ``get`` takes nothing; ``close`` ends every ``get`` with an error once all is read."""

    def __init__(self, limit: int | None = None) -> None:
        """Beyond ``limit`` entries the oldest are lost."""
        self._entries: deque[T] = deque(maxlen=limit)
        self._changed = asyncio.Event()
        self._error: Exception | None = None

    def put(self, entry: T) -> None:
        self._entries.append(entry)
        self._changed.set()

    async def get(self) -> T:
        """The oldest entry; waits for one. Raises what ``close`` was given."""
        while not self._entries:
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()
        return self._entries.popleft()

    def replace(self, change: Callable[[T], T]) -> None:
        """Puts ``change(entry)`` in the place of every entry nobody has read yet."""
        for index, entry in enumerate(self._entries):
            self._entries[index] = change(entry)

    def close(self, error: Exception) -> None:
        """Ends the queue; the first error counts."""
        self._error = self._error or error
        self._changed.set()
