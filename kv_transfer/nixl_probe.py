"""Two NIXL agents with a buffer each, and a real read from one to the other: what ``baton doctor`` times.

Host memory only. What the two tell each other are bytes and numbers, so that any channel may carry it.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import msgspec
import numpy as np

from core.errors import BatonError

_PROGRESS_REST_US = 100
"""As on CPU workers: two agents that polled without a pause would take the cores from each other."""
_PATTERN = 251
"""A prime, so that no page looks like the one before it."""


class ProbeError(BatonError):
    """The transfer could not be made, or brought something else."""


class Offer(msgspec.Struct, frozen=True):
    """Where a keeper's bytes are, and what a reader needs to know of it."""

    metadata: bytes
    address: int
    size_bytes: int
    first: int
    """Value of the first byte; the pattern goes on from it."""


def installed_back_ends() -> tuple[str, ...]:
    """Names, as NIXL has them. Raises ProbeError where it cannot be imported or loaded."""
    try:
        return tuple(sorted(_agent("baton-doctor-asks", back_ends=()).plugin_list))
    except Exception as error:  # a missing library is an ImportError; its binding raises classes without a common root
        raise ProbeError(f"{type(error).__name__}: {error}") from error


class NixlProbe:
    """One agent and its buffer. Raises ProbeError, also where NIXL cannot be imported."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self._buffer = np.zeros(size_bytes, dtype=np.uint8)
        try:
            self._agent = _agent(name, ("UCX",))
            self._registered = self._agent.register_memory([(self._buffer.ctypes.data, size_bytes, 0, "")], "DRAM")
        except Exception as error:  # as above
            raise ProbeError(f"NIXL has no agent for us: {error}") from error
        if not self._registered:
            raise ProbeError("NIXL cannot register host memory")

    def offer(self, first: int) -> Offer:
        """Fills the buffer; valid until the next offer or ``close``."""
        self._buffer[:] = _pattern(first, self._buffer.size)
        return Offer(self._agent.get_agent_metadata(), self._buffer.ctypes.data, self._buffer.size, first)

    def pull(self, offer: Offer, limit_s: float, at_least_s: float = 0.5) -> tuple[int, float]:
        """Reads the offered bytes again and again; bytes and seconds, without the first read, in which UCX connects.

        Checks what has come. Raises ProbeError, also when a read takes longer than ``limit_s``.
        """
        if offer.size_bytes > self._buffer.size:
            raise ProbeError(f"the buffer is of {self._buffer.size} bytes, the offer of {offer.size_bytes}")
        self._buffer[:] = 0
        peer = None
        try:
            peer = self._agent.add_remote_agent(offer.metadata)
            peer = peer.decode() if isinstance(peer, bytes) else peer
            here = self._agent.get_xfer_descs([(self._buffer.ctypes.data, offer.size_bytes, 0)], "DRAM")
            there = self._agent.get_xfer_descs([(offer.address, offer.size_bytes, 0)], "DRAM")
            self._read(here, there, peer, limit_s)
            if not np.array_equal(self._buffer[: offer.size_bytes], _pattern(offer.first, offer.size_bytes)):
                raise ProbeError("other bytes came than were sent")
            began_s, moved = time.monotonic(), 0
            while moved == 0 or time.monotonic() - began_s < at_least_s:
                self._read(here, there, peer, limit_s)
                moved += offer.size_bytes
            return moved, time.monotonic() - began_s
        except ProbeError:
            raise
        except Exception as error:  # as above
            raise ProbeError(f"NIXL cannot read from there: {error}") from error
        finally:
            if peer is not None:
                self._agent.remove_remote_agent(peer)

    def _read(self, here: Any, there: Any, peer: str, limit_s: float) -> None:
        handle = self._agent.initialize_xfer("READ", here, there, peer)
        until_s = time.monotonic() + limit_s
        state = self._agent.transfer(handle)
        while state == "PROC":
            if time.monotonic() > until_s:
                # Not released: there is no safe way to call a read back.
                raise ProbeError(f"a read of {self._buffer.size} bytes has not ended in {limit_s:g} s")
            time.sleep(0.0002)
            state = self._agent.check_xfer_state(handle)
        self._agent.release_xfer_handle(handle)
        if state != "DONE":
            raise ProbeError(f"a read ended as {state}")

    def close(self) -> None:
        """Nobody reads from here any more."""
        self._agent.deregister_memory(self._registered)


def _agent(name: str, back_ends: tuple[str, ...]) -> Any:
    from nixl._api import nixl_agent, nixl_agent_config

    from kv_transfer.progress_rest import rest_progress_thread

    if "NIXL_LOG_LEVEL" not in os.environ:
        logging.getLogger("nixl").setLevel(logging.WARNING)  # it tells of every agent
    rest_progress_thread(_PROGRESS_REST_US)
    return nixl_agent(name, nixl_agent_config(backends=list(back_ends)))


def _pattern(first: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Bytes that differ from place to place."""
    return ((np.arange(size, dtype=np.uint32) + first) % _PATTERN).astype(np.uint8)
