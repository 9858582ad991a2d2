"""Configuration of one simulated engine."""

from __future__ import annotations

from typing import Literal

import msgspec

from core.config import BatonConfig
from core.errors import ConfigError
from core.worker import EngineFacts
from engine.sim_timing import ConstantTime, Timing


class SimulatedEngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything a simulated engine is told. Raises ConfigError for values that could not work."""

    block_size_tokens: int = 16
    num_blocks: int = 1024
    max_model_len: int = 4096
    """Prompt and output tokens together."""
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    """Tokens one step computes at most, over all requests."""
    long_prefill_threshold_tokens: int = 0
    """Tokens one request computes in one step at most, unless it is the only one; 0: as many as the step may."""
    long_prefill_adaptive: bool = False
    """That threshold is never below a fair share of the step's tokens."""
    policy: Literal["fcfs", "priority"] = "fcfs"
    """Who goes first and who is preempted last: whoever came first, or the smaller priority before that."""
    reserve_full_prompt: bool = True
    """A request is admitted only with room for all its tokens so far; else with room for its first chunk."""
    watermark: float = 0.0
    """Share of the blocks that must stay free when a request is admitted beside running ones."""
    timing: Timing = ConstantTime(seconds=0.005)
    vocab_size: int = 32_000
    special_token_ids: frozenset[int] = frozenset()
    """Never sampled."""
    eos_token_id: int | None = None
    mean_output_tokens: int = 0
    """End of sequence is sampled once in so many tokens; 0: never, outputs end at ``max_tokens``."""
    kv_bytes_per_token: int = 65_536
    link_gbps: float = 0.0
    """Gigabits per second at which KV is received, shared by all pulls of this engine; 0: without limit."""
    link_latency_s: float = 0.0
    link_answer_s: float = 2.0
    """A keeper that is silent for this long is taken for gone."""
    host: str = "127.0.0.1"
    """Where the side channel listens, and what other engines are told to connect to."""
    lease_s: float = 10.0
    """How long a finished prefill's blocks are kept since the last word from a reader."""
    startup_s: float = 0.0
    wake_s: float | None = None
    """How long it takes to wake from its sleep; None: it cannot sleep."""
    adapter_slots: int = 0
    """LoRA adapters it holds at once; what ``lora`` of the configuration says, where that is on."""
    adapter_load_s: float = 0.05
    """How long loading one takes. The engine makes no step meanwhile."""
    slowdown: float = 1.0
    """Wall seconds in one of the simulation's: steps, links, leases and the start all take so many times as long, and the routers' clocks
    go as slow (``core.pace``), so that a large cluster runs truly on a small machine. What is told in seconds is the simulation's."""
    kv_events: bool = True

    def __post_init__(self) -> None:
        for name in (
            "block_size_tokens",
            "num_blocks",
            "max_model_len",
            "max_num_seqs",
            "max_num_batched_tokens",
            "vocab_size",
            "lease_s",
            "slowdown",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError("must be above 0", name)
        for name in (
            "mean_output_tokens",
            "kv_bytes_per_token",
            "link_gbps",
            "link_latency_s",
            "startup_s",
            "adapter_slots",
            "adapter_load_s",
        ):
            if getattr(self, name) < 0:
                raise ConfigError("must not be below 0", name)
        if (self.wake_s or 0.0) < 0:
            raise ConfigError("must not be below 0", "wake_s")
        if self.long_prefill_threshold_tokens < 0:
            raise ConfigError("must not be below 0", "long_prefill_threshold_tokens")
        if not 0 <= self.watermark < 1:
            raise ConfigError("must be at least 0 and below 1", "watermark")
        if self.num_blocks * self.block_size_tokens < self.max_model_len:
            raise ConfigError("num_blocks * block_size_tokens must hold one request of max_model_len", "num_blocks")
        if self.mean_output_tokens and self.eos_token_id is None:
            raise ConfigError("needs eos_token_id", "mean_output_tokens")
        if len(self.special_token_ids) * 2 > self.vocab_size:
            raise ConfigError("must leave at least half of the vocabulary", "special_token_ids")

    @classmethod
    def of_config(cls, config: BatonConfig, host: str) -> SimulatedEngineConfig:
        """As ``engine.simulated`` has it. Raises ConfigError."""
        slots = config.lora.max_loaded if config.lora.enabled else 0
        options = {"host": host, "lease_s": config.kv_transfer.lease_s, "adapter_slots": slots, **config.engine.simulated}
        try:
            return msgspec.convert(options, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(str(error), "engine.simulated") from None
        except ConfigError as error:
            raise ConfigError(error.rule, f"engine.simulated.{error.where}") from None

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(
            block_size_tokens=self.block_size_tokens,
            num_blocks=self.num_blocks,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            can_sleep=self.wake_s is not None,
            adapter_slots=self.adapter_slots,
        )
