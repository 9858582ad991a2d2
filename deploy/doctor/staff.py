"""Whom the doctor asks, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from core.errors import BatonError


class LostError(BatonError):
    """An examiner cannot be asked: its process has ended, was never started, or takes too long."""


class Staff(Protocol):
    """Examiners, the first of each node before any second; ``nodes`` says where each is."""

    @property
    def nodes(self) -> Sequence[str]:
        """Addresses, one for each examiner."""
        ...

    def ask(self, which: int, method: str, *arguments: Any) -> Any:
        """Calls a method of an examiner and waits. Raises LostError, and what the method raises."""
        ...


def pairs(nodes: Sequence[str], most: int) -> list[tuple[int, int]]:
    """Which examiner reads from which: each node from the next, both ways where there are two, at most ``most``, evenly spread.

    A ring rather than all pairs: it has every node as a reader and as a keeper, and grows as nodes do.
    """
    count = len(nodes)
    ring = [(number, (number + 1) % count) for number in range(count)]
    if count == 2 and nodes[0] == nodes[1]:
        ring = ring[:1]  # two processes of one node: the other way is the same way
    every = max(1, -(-len(ring) // most))
    return ring[::every]
