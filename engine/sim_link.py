"""The side channel between simulated engines: a pull is a question, a wait as long as the bytes take, and a last word."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from enum import StrEnum

import msgspec

from core.ids import LegId
from engine.sim_request import RemotePrompt


class Verb(StrEnum):
    """What a reader says to a keeper about one kept prompt."""

    RENEW = "renew"
    """I am coming, or still reading."""
    READ = "read"
    """I have read it, or will not: free it."""


class Word(msgspec.Struct, frozen=True):
    """One message of a reader. ``engine_id`` names one life of the keeper, so that a restarted one is not mistaken for it."""

    engine_id: str
    leg: LegId
    verb: Verb


Keeper = Callable[[Word], bool]
"""Does what a reader says, at once; False where the prompt is not kept (any more)."""

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class LinkRate:
    """How long bytes take to arrive: one after the other at a fixed rate, and a latency on top."""

    def __init__(self, gbps: float, latency_s: float) -> None:
        """``gbps`` in gigabits per second; 0 is without limit."""
        self._byte_s = 8e-9 / gbps if gbps else 0.0
        self._latency_s = latency_s
        self._busy_until_s = 0.0

    def change(self, gbps: float) -> None:
        """What is reserved from now on goes at that rate."""
        self._byte_s = 8e-9 / gbps if gbps else 0.0

    def reserve(self, transfer_bytes: int, now: float) -> float:
        """Seconds from ``now`` until these bytes are here, behind all that were reserved before."""
        self._busy_until_s = max(now, self._busy_until_s) + transfer_bytes * self._byte_s
        return self._busy_until_s + self._latency_s - now


class Link(ABC):
    """One engine's end of the side channel, as a reader and as a keeper. ``open`` once, ``close`` once."""

    host = ""
    """With ``port``: where other engines reach this one; valid from ``open`` to ``close``."""
    port = 0

    def __init__(self, rate: LinkRate, lease_s: float, clock: Clock, sleep: Sleep) -> None:
        """``lease_s`` is how long a keeper waits between two words; it is the same in the whole cluster."""
        self._rate = rate
        self._lease_s = lease_s
        self._clock = clock
        self._sleep = sleep

    @abstractmethod
    async def open(self, engine_id: str, keeper: Keeper) -> None:
        """Starts to answer for ``engine_id``."""

    @abstractmethod
    async def say(self, remote: RemotePrompt, verb: Verb) -> bool:
        """Tells the keeper of ``remote``; False where it does not keep it, or does not answer in time. Never raises."""

    @abstractmethod
    async def close(self) -> None:
        """Stops answering. Idempotent."""

    async def pull(self, remote: RemotePrompt, transfer_bytes: int) -> bool:
        """Waits until the bytes are here, keeping the lease alive, then lets the keeper free them.

        False where the prompt was not kept from beginning to end: nothing may be used then. Cancelling leaves the lease
        to its keeper.
        """
        left_s = self._rate.reserve(transfer_bytes, self._clock())
        while await self.say(remote, Verb.RENEW):
            part_s = min(left_s, self._lease_s / 3)
            if part_s > 0:
                await self._sleep(part_s)
            left_s -= part_s
            if left_s <= 0:
                return await self.say(remote, Verb.READ)
        return False


class LocalNetwork:
    """Where the engines of one process find each other."""

    def __init__(self) -> None:
        self.keepers: dict[str, Keeper] = {}


class LocalLink(Link):
    """A link between engines of one process: no sockets, so that it works on a virtual clock."""

    def __init__(self, network: LocalNetwork, rate: LinkRate, lease_s: float, clock: Clock, sleep: Sleep) -> None:
        super().__init__(rate, lease_s, clock, sleep)
        self._network = network
        self._engine_id = ""

    async def open(self, engine_id: str, keeper: Keeper) -> None:
        self.host, self._engine_id = "local", engine_id
        self._network.keepers[engine_id] = keeper

    async def say(self, remote: RemotePrompt, verb: Verb) -> bool:
        keeper = self._network.keepers.get(remote.engine_id)
        await asyncio.sleep(0)
        return keeper is not None and keeper(Word(remote.engine_id, remote.leg, verb))

    async def close(self) -> None:
        self._network.keepers.pop(self._engine_id, None)
