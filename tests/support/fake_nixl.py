"""A NIXL agent for one process: reads real memory by address, at the moments a test says."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

Descs = list[tuple[int, int, int]]


@dataclass(eq=False)
class FakeRead:
    """One read under way: copies still to be made, as (to, from, bytes)."""

    left: list[tuple[int, int, int]]
    state: str = "PROC"


@dataclass
class FakeNixl:
    """``copy_one`` moves bytes, ``fail`` breaks a read; nothing else does. ``refusing``: reads cannot be posted."""

    refusing: bool = False
    locked: bool = False
    """Handles cannot be released."""
    reads: list[FakeRead] = field(default_factory=list)
    released: list[FakeRead] = field(default_factory=list)

    def get_xfer_descs(self, descs: Descs, memory: str) -> Descs:
        assert memory == "DRAM"
        return descs

    def initialize_xfer(self, operation: str, here: Descs, there: Descs, agent: str) -> FakeRead:
        assert operation == "READ"
        if self.refusing:
            raise ConnectionError(agent)
        return FakeRead([(to, source, size) for (to, size, _), (source, _, _) in zip(here, there, strict=True)])

    def transfer(self, handle: FakeRead) -> str:
        self.reads.append(handle)
        return handle.state

    def check_xfer_state(self, handle: FakeRead) -> str:
        assert handle not in self.released, "asked about after its release"
        if handle.state == "ERR":
            raise ConnectionError("lost")
        return handle.state

    def release_xfer_handle(self, handle: FakeRead) -> None:
        assert handle.state != "PROC", "a read that may still write must not be released"
        if self.locked:
            raise RuntimeError("in use")
        self.released.append(handle)

    def copy_one(self, handle: FakeRead) -> None:
        """Makes the next copy of a read; the last one ends it. Ended reads are left alone."""
        if handle.state == "PROC":
            ctypes.memmove(*handle.left.pop(0))
            handle.state = "PROC" if handle.left else "DONE"

    def copy_all(self) -> None:
        """Makes every copy of every read."""
        for handle in self.reads:
            while handle.state == "PROC":
                self.copy_one(handle)

    def fail(self) -> None:
        """Every read under way breaks."""
        for handle in self.reads:
            handle.state = "ERR" if handle.state == "PROC" else handle.state


def read(nixl: Any, here: int, there: int, sizes: list[int]) -> FakeRead:
    """Posts a read of consecutive pieces."""
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    handle: FakeRead = nixl.initialize_xfer(
        "READ",
        [(here + start, size, 0) for start, size in zip(starts, sizes, strict=True)],
        [(there + start, size, 0) for start, size in zip(starts, sizes, strict=True)],
        "keeper",
    )
    nixl.transfer(handle)
    return handle
