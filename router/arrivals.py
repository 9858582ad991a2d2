"""KV on its way to a worker: prompts computed elsewhere that it has been asked to pull, or will be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Arrival(NamedTuple):
    """One of them. In order: by when it is ready."""

    ready_s: float
    """When its prompt is computed, as predicted, or was."""
    moves_s: float
    """How long its bytes take with nothing ahead of them."""
    is_ready: bool
    """The worker was asked to pull it."""


def wait_s(arrivals: Iterable[Arrival], ready_s: float, now_s: float, others_s: float = 0.0) -> float:
    """How long KV that is ready at ``ready_s`` waits behind those that are ready earlier, all on the router's clock.

    A worker has one port, and what comes in through it comes one after the other; pulls that share it end, on average, no sooner. One
    whose prompt takes longer than predicted is ready now, at the earliest. ``arrivals`` are in order; ``others_s`` is what comes in
    before them, for other routers.
    """
    free_s = now_s + others_s if others_s else 0.0
    for arrival in arrivals:
        there_s = arrival.ready_s if arrival.is_ready else max(arrival.ready_s, now_s)
        if there_s > ready_s:
            break
        free_s = max(free_s, there_s) + arrival.moves_s
    return max(0.0, free_s - ready_s)
