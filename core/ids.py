"""One type per identity, made at the boundary, so that a worker id is never passed where a leg id is meant."""

from typing import NewType

WorkerId = NewType("WorkerId", str)
"""A worker's name for life, e.g. ``prefill-0-3f9a``; a replacement gets a new one."""

RouterId = NewType("RouterId", str)
"""A router replica's name for life."""

RequestId = NewType("RequestId", str)
"""What vLLM's front half calls a request. One ``n=3`` client request is three of these."""

LegId = NewType("LegId", str)
"""One piece of a request's work on one worker: the id its engine knows. ``<request id>:<number>``, never reused."""

Epoch = NewType("Epoch", int)
"""Which life of a worker something belongs to. Grows with every start; anything carrying another epoch is stale."""


def leg_id(request_id: RequestId, number: int) -> LegId:
    """The id of a request's ``number``-th leg (0, 1, ...)."""
    return LegId(f"{request_id}:{number}")
