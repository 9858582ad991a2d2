"""The quarantine: a block that a read may still write to is not given to anybody."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kv_transfer.quarantine import BlockNews, HeldBlocks, Quarantine
from tests.support.fake_nixl import FakeNixl, read

SOURCE = np.arange(1, 3, dtype=np.int64)


class Pool:
    """vLLM's block pool, as far as holders go."""

    def __init__(self) -> None:
        self.blocks = [SimpleNamespace(holders=1) for _ in range(4)]

    def touch(self, blocks: list[Any]) -> None:
        for block in blocks:
            block.holders += 1

    def free_blocks(self, blocks: list[Any]) -> None:
        for block in blocks:
            block.holders -= 1

    @property
    def holders(self) -> list[int]:
        return [block.holders for block in self.blocks]


@pytest.mark.parametrize("end", ["done", "failed"])
def test_blocks_are_held_until_every_read_has_ended(end: str) -> None:
    """Arrived or broken, but not before, and told once."""
    nixl, here = FakeNixl(), np.zeros(2, dtype=np.int64)
    quarantine = Quarantine(nixl)
    handles = [read(nixl, here.ctypes.data, SOURCE.ctypes.data, [8, 8]) for _ in range(2)]
    quarantine.hold(handles, [1, 3])
    quarantine.step()
    assert quarantine.take_news() == BlockNews([1, 3], [])
    assert quarantine.take_news() is None
    nixl.copy_one(handles[0])
    nixl.copy_one(handles[0])
    quarantine.step()
    assert quarantine.take_news() is None
    if end == "done":
        nixl.copy_all()
    else:
        nixl.fail()
    quarantine.step()
    assert quarantine.take_news() == BlockNews([], [1, 3])
    assert nixl.released == handles
    quarantine.step()
    assert quarantine.take_news() is None


def test_a_handle_that_cannot_be_released_holds_its_blocks() -> None:
    """An error does not say that nothing is written any more; a release does."""
    nixl, here = FakeNixl(locked=True), np.zeros(2, dtype=np.int64)
    quarantine = Quarantine(nixl)
    quarantine.hold([read(nixl, here.ctypes.data, SOURCE.ctypes.data, [16])], [2])
    nixl.fail()
    quarantine.step()
    assert quarantine.take_news() == BlockNews([2], [])
    nixl.locked = False
    quarantine.step()
    assert quarantine.take_news() == BlockNews([], [2])


def test_nothing_under_way_holds_nothing() -> None:
    """A pull that hung on its lease word alone has all its blocks."""
    quarantine = Quarantine(FakeNixl())
    quarantine.hold([], [1, 2])
    assert quarantine.take_news() is None


def test_the_scheduler_counts_a_holder_per_rank() -> None:
    """A block is free when the last rank has let it go; until then the engine must not fall asleep."""
    held, pool = HeldBlocks(), Pool()
    held.pool = pool
    held.hear(BlockNews([1, 3]).aggregate(BlockNews([1, 3])))
    assert (pool.holders, held.count) == ([1, 3, 1, 3], 4)
    held.hear(BlockNews([], [1, 3]))
    assert (pool.holders, held.count) == ([1, 2, 1, 2], 2)
    held.hear(BlockNews([], [1, 3]))
    assert (pool.holders, held.count) == ([1, 1, 1, 1], 0)
