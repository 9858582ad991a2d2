"""What comes into one worker, to tell its port's speed from the wait of those that share it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.ids import WorkerId

_MOST = 32
"""Pulls of a busy spell that are counted together; one that goes on begins anew."""


@dataclass(slots=True)
class Spell:
    """Some time in which something was coming in all the time."""

    sender: WorkerId | None
    """None: more than one."""
    moved_bytes: int
    began_s: float
    ended_s: float
    pulls: int = 1

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s


class Port:
    """A worker's way in. Whether its pulls come one after the other or side by side, each slowly: in a busy spell all of them together
    take as long as their bytes do."""

    def __init__(self) -> None:
        self._spell: Spell | None = None
        self._counted_s = -math.inf
        """Until then, time has been counted with earlier spells."""

    def pulled(self, sender: WorkerId, moved_bytes: int, began_s: float, ended_s: float) -> Spell | None:
        """A pull is complete. Returns the spell before it, where that is over. One that is told of when a later spell has begun, as its
        answer had to wait, is not counted: between it and that spell the port may have been idle."""
        over, began_s = self._spell, max(began_s, self._counted_s)
        if over is not None and ended_s < over.began_s:
            return None
        if over is not None and began_s < over.ended_s and over.pulls < _MOST:
            over.pulls += 1
            over.moved_bytes += moved_bytes
            over.began_s, over.ended_s = min(over.began_s, began_s), max(over.ended_s, ended_s)
            if sender != over.sender:
                over.sender = None
            return None
        if over is not None:
            self._counted_s = over.ended_s
            began_s = max(began_s, over.ended_s)
        self._spell = Spell(sender, moved_bytes, began_s, max(began_s, ended_s))
        return over
