"""What a worker is made from, and what it tells of itself. Both cross Ray between the controller and the worker's actor."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from cluster.channel import ChannelKeys
from core.config import BatonConfig
from core.ids import Epoch, WorkerId
from core.step_model import StepModel
from core.worker import Role, WorkerCard, WorkerLoad


class WorkerSpec(msgspec.Struct, frozen=True):
    """Everything a worker needs to start, on whichever node Ray puts it. Holds secrets: never log it whole."""

    app: str
    worker: WorkerId
    role: Role
    epoch: Epoch
    spec_hash: str
    config: dict[str, Any]
    """The validated configuration, as plain data."""
    worker_keys: ChannelKeys
    router_keys: ChannelKeys
    restarts: int = 0

    def __repr__(self) -> str:
        return f"WorkerSpec({self.worker}, epoch {self.epoch})"


class WorkerReport(msgspec.Struct, frozen=True):
    """A worker's answer to a beat."""

    phase: str
    failed: str | None = None
    """Why it will not serve (any more); the controller replaces it."""
    card: WorkerCard | None = None
    """Once the engine is loaded."""
    load: WorkerLoad = WorkerLoad()
    idle: bool = True
    stuck_s: float = 0.0
    """How long its loop has not run; more than a few seconds and it is as good as dead."""
    draining_s: float | None = None
    """How long it has taken no new legs; None: it does. Drained is a worker that says so itself and is idle."""
    asleep: bool = False
    """Its engine can be woken, and does nothing until then."""
    pid: int = 0
    node: str = ""
    received_bytes: int = 0
    computed_prompt_tokens: int = 0
    measured: StepModel | None = None
    """How long its steps take, as far as it has measured that itself; None until its first seconds are over."""
    metrics_address: str = ""
    """``host:port`` where it is scraped; empty before it can be."""


CONTROLLERS_OWN = {"count", "start_timeout_s", "silence_timeout_s", "drain_timeout_s", "surge"}
"""Keys of a pool that neither its workers nor the routers read."""
_ROUTERS_OWN = {"kv_transfer": {"link_gbps", "link_latency_s"}, "tracing": {"sample"}}
"""Keys of shared sections that workers do not read."""


def spec_hash(config: BatonConfig, role: Role) -> str:
    """Names a pool's configuration: workers with another hash are replaced. What only routers or the controller read does not matter."""
    pool = _for_workers(config, role)
    shared = config.model_dump(include={"model", "engine", "lora", "kv_transfer", "host", "tracing"}, exclude=_ROUTERS_OWN)
    channel = config.router.model_dump(include={"heartbeat_s", "worker_timeout_s"})
    text = json.dumps([pool, shared, channel], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differing_keys(config: BatonConfig) -> list[str]:
    """What workers of the two pools are made differently by; none: each could as well be one of the other pool."""
    prefill, decode = (_for_workers(config, role) for role in (Role.PREFILL, Role.DECODE))
    return [key for key, value in prefill.items() if value != decode[key]]


def _for_workers(config: BatonConfig, role: Role) -> dict[str, Any]:
    return config.pool(role).model_dump(exclude=CONTROLLERS_OWN)
