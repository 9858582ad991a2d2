"""What a configuration asks of nodes and links, in the doctor's terms."""

from __future__ import annotations

import msgspec

from core.config import BatonConfig
from core.worker import Role

_TRANSPORT = "UCX_"


class Pool(msgspec.Struct, frozen=True):
    """Of equal workers."""

    role: str
    count: int
    gpus: float
    """Per worker."""


class Wants(msgspec.Struct, frozen=True):
    """Without a configuration: one that says nothing, so only what is wrong for everybody is found."""

    pools: tuple[Pool, ...] = ()
    nixl: bool = True
    """Whether KV goes by NIXL."""
    link_gbps: float | None = None
    """What routers were told to expect."""
    link_latency_s: float | None = None
    streams: int = 1000
    """That one router may have open."""
    transport_env: dict[str, str] = {}
    """UCX's variables that workers are given, over the node's own."""

    @property
    def gpus(self) -> float:
        return sum(pool.count * pool.gpus for pool in self.pools)

    @property
    def largest_worker_gpus(self) -> float:
        return max((pool.gpus for pool in self.pools if pool.count), default=0.0)

    @classmethod
    def of(cls, config: BatonConfig) -> Wants:
        """What this one asks for."""
        return cls(
            pools=tuple(Pool(str(role), config.pool(role).count, config.pool(role).num_gpus) for role in Role),
            nixl=config.kv_transfer.backend == "nixl",
            link_gbps=config.kv_transfer.link_gbps,
            link_latency_s=config.kv_transfer.link_latency_s,
            streams=config.router.max_ongoing_requests,
            transport_env={name: str(value) for name, value in config.engine.env.items() if name.startswith(_TRANSPORT)},
        )
