"""Leases of the simulated engine: finished prefills whose blocks wait for a reader."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from core.ids import LegId


class Kept(msgspec.Struct, frozen=True):
    """A finished prefill's blocks."""

    blocks: Sequence[int]
    expires_s: float
    """On the clock that ``now`` is read from."""


class Leases:
    """Who keeps what until when. All leases are equally long, so the order of renewal is the order of expiry."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self._kept: OrderedDict[LegId, Kept] = OrderedDict()

    @property
    def next_expiry_s(self) -> float | None:
        """When the first lease ends by itself; None without leases."""
        return next((kept.expires_s for kept in self._kept.values()), None)

    def keep(self, leg: LegId, blocks: Sequence[int], now: float) -> None:
        self._kept[leg] = Kept(blocks, now + self.lease_s)

    def renew(self, leg: LegId, now: float) -> bool:
        """Starts the lease anew; False where there is none (any more)."""
        kept = self._kept.get(leg)
        if kept is None or kept.expires_s <= now:
            return False
        self._kept[leg] = Kept(kept.blocks, now + self.lease_s)
        self._kept.move_to_end(leg)
        return True

    def end(self, leg: LegId) -> Kept | None:
        """Ends one lease; its blocks are the caller's to free."""
        return self._kept.pop(leg, None)

    def expire(self, now: float) -> list[tuple[LegId, Kept]]:
        """Ends every lease whose time is over."""
        over: list[tuple[LegId, Kept]] = []
        while self._kept and next(iter(self._kept.values())).expires_s <= now:
            over.append(self._kept.popitem(last=False))
        return over
