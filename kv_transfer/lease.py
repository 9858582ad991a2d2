"""Leases: which finished prefills a worker keeps for somebody to read, how many blocks that is, and when each ends.

Pure book-keeping: the engine holds the blocks and ends leases; this table is told and can be asked. It is what tells leased
blocks (will be read) from stranded ones (nobody can read them any more, and they still count).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from core.ids import LegId, RouterId

_GRACE_S = 1.0
"""An engine ends leases between two steps, and a step may take as long as this."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A promise to keep ``blocks`` KV blocks of ``leg`` for ``owner`` until ``expires_at_s`` on the table's clock."""

    leg: LegId
    owner: RouterId
    blocks: int
    expires_at_s: float


class LeaseTable:
    """All leases of one worker. Every lease granted is ended exactly once: read, released or expired."""

    def __init__(self) -> None:
        self._leases: dict[LegId, Lease] = {}

    def grant(self, lease: Lease) -> None:
        """Starts a lease. A leg has at most one in its life: a second grant is a programming error (ValueError)."""
        if lease.leg in self._leases:
            raise ValueError(f"leg {lease.leg} is leased already")
        self._leases[lease.leg] = lease

    def end(self, leg: LegId) -> Lease | None:
        """Forgets a lease the engine has ended; None when there is none (ending twice is no error)."""
        return self._leases.pop(leg, None)

    def of_owner(self, owner: RouterId) -> list[LegId]:
        """The legs kept for one router: to be released when it is gone."""
        return [lease.leg for lease in self._leases.values() if lease.owner == owner]

    def renew(self, leg: LegId, expires_at_s: float) -> None:
        """Moves a lease's end to a later time. Unknown legs are ignored."""
        lease = self._leases.get(leg)
        if lease is not None and lease.expires_at_s < expires_at_s:
            self._leases[leg] = replace(lease, expires_at_s=expires_at_s)

    def stranded_blocks(self, now_s: float) -> int:
        """Blocks under leases that are over and that the engine has not ended, though it should have done so by now."""
        return sum(lease.blocks for lease in self._leases.values() if lease.expires_at_s + _GRACE_S <= now_s)

    @property
    def blocks(self) -> int:
        """KV blocks under lease."""
        return sum(lease.blocks for lease in self._leases.values())

    def __len__(self) -> int:
        return len(self._leases)
