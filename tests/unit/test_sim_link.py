"""A simulated pull: bytes count only where the lease lasted from its beginning to its end, in one life of the keeper."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.ids import LegId
from engine.sim_leases import Leases
from engine.sim_link import LinkRate, LocalLink, LocalNetwork, Verb, Word
from engine.sim_request import RemotePrompt

LEASE_S = 3.0
LEG = LegId("a:0")
REMOTE = RemotePrompt("keeper", LEG, "local", 0, 16)


class Clock:
    """Time goes on when somebody sleeps, and ``events`` happen at their seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.events: list[tuple[float, Callable[[], object]]] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        while self.events and self.events[0][0] <= self.now_s:
            self.events.pop(0)[1]()


class Keeper:
    """The keeper's answers, as the simulated engine gives them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.leases = Leases(LEASE_S)
        self.leases.keep(LEG, [1, 2], 0.0)

    def __call__(self, word: Word) -> bool:
        if not self.leases.renew(word.leg, self.clock()):
            return False
        if word.verb is Verb.READ:
            self.leases.end(word.leg)
        return True


@pytest.mark.parametrize(
    ("what", "at_s", "complete"),
    [
        ("nothing", 0.0, True),
        ("released", 5.0, False),
        ("released in the last second", 9.5, False),
        ("gone", 5.0, False),
        ("restarted", 5.0, False),
    ],
)
async def test_a_pull_counts_only_if_the_lease_lasted(what: str, at_s: float, complete: bool) -> None:
    """Ended while bytes were on their way, at any time: nothing of what came is used."""
    clock, network = Clock(), LocalNetwork()
    keeper = Keeper(clock)
    network.keepers["keeper"] = keeper

    def happen() -> None:
        if what.startswith("released"):
            keeper.leases.end(LEG)
        elif what == "gone":
            network.keepers.clear()
        elif what == "restarted":  # another life, which keeps a leg of the same name
            network.keepers = {"keeper, again": Keeper(clock)}

    clock.events = [(at_s, happen)]
    link = LocalLink(network, LinkRate(gbps=8e-9, latency_s=0.0), LEASE_S, clock, clock.sleep)
    await link.open("reader", lambda word: False)
    assert await link.pull(REMOTE, transfer_bytes=10) is complete
    assert keeper.leases.end(LEG) is None or what in {"gone", "restarted"}


async def test_a_lease_that_ran_out_before_the_pull_is_not_revived() -> None:
    """Also where the keeper has not noticed yet."""
    clock, network = Clock(), LocalNetwork()
    network.keepers["keeper"] = Keeper(clock)
    clock.now_s = LEASE_S
    link = LocalLink(network, LinkRate(0, 0), LEASE_S, clock, clock.sleep)
    assert not await link.pull(REMOTE, transfer_bytes=10)
