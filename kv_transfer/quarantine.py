"""Blocks that a read may still write to though nobody waits for it any more: kept from reuse until the read has ended.

A peer that is stopped, or behind a broken network, neither sends nor fails, and there is no safe way to call a read back. So
the request goes on without it, in other blocks, and these stay taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class BlockNews:
    """What a rank tells the scheduler: blocks that it must not reuse, and such as it may again. Once per rank each."""

    held: list[int] = field(default_factory=list)
    let_go: list[int] = field(default_factory=list)

    def aggregate(self, other: BlockNews) -> BlockNews:
        """Both ranks' news; vLLM's executor joins them by this name."""
        return BlockNews(self.held + other.held, self.let_go + other.let_go)


class Quarantine:
    """One rank's reads that nobody waits for, and the blocks they write to."""

    def __init__(self, nixl: Any) -> None:
        self._nixl = nixl
        self._reads: list[tuple[list[Any], list[int]]] = []
        self._news = BlockNews()

    def hold(self, handles: Sequence[Any], blocks: Iterable[int]) -> None:
        """Takes over reads under way; does nothing without any."""
        if handles:
            self._reads.append((list(handles), list(blocks)))
            self._news.held += self._reads[-1][1]

    def step(self) -> None:
        """Lets blocks go whose reads have all ended."""
        left = []
        for handles, blocks in self._reads:
            open_handles = [handle for handle in handles if outcome(self._nixl, handle) is None]
            if open_handles:
                left.append((open_handles, blocks))
            else:
                self._news.let_go += blocks
        self._reads = left

    def take_news(self) -> BlockNews | None:
        """What has changed since the last call."""
        news, self._news = self._news, BlockNews()
        return news if news.held or news.let_go else None


class HeldBlocks:
    """The scheduler's side: one more holder for each block in quarantine, in vLLM's own block pool."""

    def __init__(self) -> None:
        self.pool: Any = None
        """vLLM's ``BlockPool``; bound before the first step."""
        self.count = 0

    def hear(self, news: BlockNews) -> None:
        """Holds and lets go what a rank said."""
        self.pool.touch([self.pool.blocks[block] for block in news.held])
        self.pool.free_blocks([self.pool.blocks[block] for block in news.let_go])
        self.count += len(news.held) - len(news.let_go)


def outcome(nixl: Any, handle: Any) -> bool | None:
    """Whether a NIXL read arrived, True or False; None while it may still write. Releases the handle when it cannot."""
    try:
        state = nixl.check_xfer_state(handle)
    except Exception:  # NIXL raises a type of its own for each way to fail
        state = "ERR"
    if state == "PROC":
        return None  # never released now: NIXL would say "cancelled" without any promise about bytes under way
    try:
        nixl.release_xfer_handle(handle)
    except Exception:  # "cannot be released" means "still in use"
        return None
    return bool(state == "DONE")
