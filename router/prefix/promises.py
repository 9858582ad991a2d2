"""Prompts that were just sent to a worker and whose blocks it will have soon: what a burst with one prefix goes by. Pure; told the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.block_keys import BlockKey
from core.ids import WorkerId

_PER_BEGINNING = 64
"""Promises kept of prompts with the same first block, newest first served: a lookup compares with each. By the time so many more have
been sent, the worker has told of the blocks."""
_BEGINNINGS = 4096


@dataclass(frozen=True, slots=True)
class Promise:
    """One prompt on its way through one worker."""

    worker: WorkerId
    keys: Sequence[BlockKey]
    until_s: float


class Promises:
    """Each holds for ``lasts_s``, or until the worker is known to have all of it. Keeping one costs no more for a long prompt."""

    def __init__(self, lasts_s: float = 10.0) -> None:
        self._lasts_s = lasts_s
        self._promises: dict[BlockKey, list[Promise]] = {}
        """By first key, oldest first; and within, oldest first."""

    def __len__(self) -> int:
        return sum(map(len, self._promises.values()))

    def made(self, worker: WorkerId, keys: Sequence[BlockKey], now: float) -> None:
        """A prompt was sent. The sequence is kept, not copied."""
        if not keys:
            return
        promises = self._promises.pop(keys[0], [])
        promises.append(Promise(worker, keys, now + self._lasts_s))
        self._promises[keys[0]] = promises[-_PER_BEGINNING:]
        self._forget_old(now)

    def broken(self, worker: WorkerId, keys: Sequence[BlockKey]) -> None:
        """The worker refused that prompt. Unknown ones are ignored."""
        if keys:
            self._keep(keys[0], lambda promise: promise.worker != worker or promise.keys[-1] != keys[-1])

    def forget(self, worker: WorkerId) -> None:
        """The worker is gone."""
        for first in list(self._promises):
            self._keep(first, lambda promise: promise.worker != worker)

    def hits(self, keys: Sequence[BlockKey], now: float, has: Callable[[WorkerId, BlockKey], bool]) -> dict[WorkerId, int]:
        """How many of a prompt's blocks, from the first on, each worker has been promised. ``has``: whether it has a block by now."""
        found: dict[WorkerId, int] = {}
        promises = self._promises.get(keys[0]) if keys else None
        if promises is None:
            return found
        kept: list[Promise] = []
        for promise in promises:
            worker, promised = promise.worker, promise.keys
            if promise.until_s <= now or has(worker, promised[-1]):
                continue
            kept.append(promise)
            best = found.get(worker, 0)
            if (length := _common(keys, promised, best)) > best:
                found[worker] = length
        self._put(keys[0], kept)
        return found

    def _keep(self, first: BlockKey, wanted: Callable[[Promise], bool]) -> None:
        self._put(first, [promise for promise in self._promises.get(first, ()) if wanted(promise)])

    def _put(self, first: BlockKey, promises: list[Promise]) -> None:
        if promises:
            self._promises[first] = promises
        else:
            self._promises.pop(first, None)

    def _forget_old(self, now: float) -> None:
        """Beginnings nobody asks for any more. A list's last promise is its newest, and the first list the one added to longest ago."""
        while self._promises:
            first = next(iter(self._promises))
            if self._promises[first][-1].until_s > now and len(self._promises) <= _BEGINNINGS:
                return
            del self._promises[first]


def _common(these: Sequence[BlockKey], those: Sequence[BlockKey], at_least: int) -> int:
    """How many keys two prompts have in common, or any smaller number than ``at_least``. A key says what all before it are."""
    low, high = at_least, min(len(these), len(those))
    if low >= high or these[low] != those[low]:
        return 0
    while low < high:
        middle = (low + high) // 2
        if these[middle] == those[middle]:
            low = middle + 1
        else:
            high = middle
    return low
