"""What the two sides of the connector tell each other, beside what vLLM's own already do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlHandshakePayload
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.stats import NixlKVConnectorStats

from kv_transfer.lease_words import WordOrder


@dataclass(slots=True)
class Orders:
    """What the scheduler side tells every rank in one step, beside the stock connector's metadata."""

    released: list[str] = field(default_factory=list)
    words: list[WordOrder] = field(default_factory=list)
    leases: dict[str, tuple[int, Sequence[int]]] = field(default_factory=dict)
    """Of the legs to be pulled: number and addresses of the lease word."""


ORDERS_ATTRIBUTE = "baton_orders"


@dataclass
class LeasePayload(NixlHandshakePayload):
    """What a rank tells its scheduler at the start. Other engines are served it too, and ignore what is added."""

    words_address: int = 0


class BatonStats(NixlKVConnectorStats):
    """NIXL's sums plus what happened to which leg, and how long steps took. Lists, so that tensor-parallel ranks and the
    scheduler side, which alone tells of steps, aggregate by joining."""

    def reset(self) -> None:
        super().reset()
        self.data["leg_transfers"] = []  # [leg, bytes, seconds]
        self.data["legs_released"] = []
        self.data["legs_expired"] = []
        self.data["legs_renewed"] = []
        self.data["steps"] = []  # [prefill tokens, prefill squares, batch, context tokens, seconds]

    def is_empty(self) -> bool:
        return super().is_empty() and not any(self.data[what] for what in ("legs_released", "legs_renewed", "steps"))
