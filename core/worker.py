"""What a worker is to everybody else: a role, a state, an address, facts that stay and a load that changes."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from core.ids import Epoch, WorkerId
from core.step_model import StepModel


class Role(StrEnum):
    """Which pool a worker serves. A label: every engine is able to do both."""

    PREFILL = "prefill"
    DECODE = "decode"


class WorkerState(StrEnum):
    """Where a worker is in its life; see ``cluster.lifecycle`` for the arrows between these."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    SLEEPING = "sleeping"
    """Its engine has given its memory back and can be woken; no router sees it."""
    GONE = "gone"


class EngineFacts(msgspec.Struct, frozen=True):
    """What an engine knows about itself once loaded; constant until it stops."""

    block_size_tokens: int
    num_blocks: int
    """Blocks that requests can use (vLLM's reserved null block is not counted)."""
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    can_sleep: bool = False
    """Whether it can give its memory back, and be woken in less time than it took to load."""
    adapter_slots: int = 0
    """LoRA adapters that it can hold at once; 0: it takes none."""


class OthersLoad(msgspec.Struct, frozen=True):
    """What a worker has taken on for all routers but the one it tells: that one keeps books of its own, which are never stale."""

    legs: int = 0
    prompt_tokens: int = 0
    """Prompt tokens of legs that compute their prompt there and have not told a token yet."""
    decoding: int = 0
    """Legs that have told a token and go on."""
    context_tokens: int = 0
    """Prompt and output tokens of those that decode, all together."""
    queued_tokens: int = 0
    """Prompt tokens that wait at those routers, for whichever worker has room first."""
    arriving_tokens: int = 0
    """Prompt tokens of legs that were handed over and have not told a token yet: their KV is to be pulled, or is being."""


class AdapterLoad(msgspec.Struct, frozen=True):
    """The LoRA adapters a worker holds. Bounded by its slots."""

    names: tuple[str, ...] = ()
    """Loaded, or being loaded. The one that was not used for longest is first."""
    in_use: int = 0
    """Those that requests are with now: they cannot go."""
    slots: int = 0
    load_s: float = 0.0
    """How long loading one takes there, lately."""

    @property
    def is_full(self) -> bool:
        """Whether no other one can come now."""
        return self.in_use >= self.slots


class WorkerLoad(msgspec.Struct, frozen=True):
    """A worker's load at one moment. Old the moment it is sent: a router adds its own dispatches to it."""

    running: int = 0
    waiting: int = 0
    free_blocks: int = 0
    num_blocks: int = 0
    leased_blocks: int = 0
    """Blocks of finished prefills kept for a decode worker that has not read them yet; part of the used ones."""
    stranded_blocks: int = 0
    """Leased blocks nobody can come for any more and that are not free yet: past their lease, or of a router that is gone."""
    others: OthersLoad = OthersLoad()
    """What it does for other routers."""
    step: StepModel | None = None
    """How long its steps take, fitted to those it has made; None until there were enough."""
    adapters: AdapterLoad | None = None
    """None where LoRA is off."""


class WorkerCard(msgspec.Struct, frozen=True):
    """All a router needs to reach a worker. Published by the controller."""

    worker: WorkerId
    epoch: Epoch
    role: Role
    state: WorkerState
    address: str
    """``tcp://host:port`` of the worker's channel."""
    public_key: str
    """The worker's CURVE public key (Z85, 40 characters)."""
    facts: EngineFacts
