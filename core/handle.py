"""A KV handle: the value that says where a prompt's computed KV cache waits and for how long."""

from __future__ import annotations

from typing import Any

import msgspec

from core.ids import Epoch, LegId, WorkerId


class KVHandle(msgspec.Struct, frozen=True):
    """The baton itself, passed prefill worker -> router -> decode worker.

    Whoever holds it may read the KV cache of ``tokens`` prompt tokens until ``expires_in_s`` after it was made. It is
    valid for one life of the worker only (``epoch``); the router drops it when that worker is gone.
    """

    worker: WorkerId
    epoch: Epoch
    leg: LegId
    """The prefill leg whose blocks are kept."""
    tokens: int
    """Prompt tokens whose KV the blocks hold."""
    blocks: int
    expires_in_s: float
    transfer: dict[str, Any]
    """What the transfer back-end needs to pull; its keys are the back-end's own business. The lease's number is among them: it is
    what tells a reader who comes late, or is slow, that the blocks are not these tokens' any more (``kv_transfer.lease_words``)."""
