"""Whether the model's weights, LoRA adapters and a longest request's KV fit a worker's memory, by the performance model's reckoning."""

from __future__ import annotations

from typing import Any

import msgspec

from core.config import BatonConfig
from core.errors import ConfigError
from core.worker import Role
from engine.performance.roofline.adapters import adapter_bytes
from engine.performance.roofline.find_model import find_model
from engine.performance.roofline.hardware import Hardware
from engine.performance.roofline.layout import Layout
from engine.performance.roofline.memory import kv_bytes_per_sequence, memory, weight_bytes
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Chunk, Step

_GIB = 1 << 30
_STEP_TOKENS = 8192
"""vLLM's usual budget of a step on a GPU, where the configuration says nothing."""
_UTILISATION = 0.92
"""vLLM's, likewise."""


class Fit(msgspec.Struct, frozen=True):
    """Of one worker of a pool. ``kv_bytes`` below 0: the weights do not fit, or not beside the adapters."""

    role: str
    weight_bytes: float
    kv_bytes: float
    kv_tokens: int
    """That have room, of one request."""
    wanted_tokens: int
    """The longest request that is allowed; 0: the configuration leaves that to the model."""
    host_bytes: float
    """That the worker takes of the host's memory for good: all of it on the CPU."""
    adapter_bytes: float = 0.0
    """Set aside for LoRA adapters, whether or not any is loaded."""


def kv_fit(config: BatonConfig, role: Role, gpu_bytes: int | None) -> Fit | None:
    """``gpu_bytes``: of each GPU; None: not known. None where the model's shape or the GPU is not known either."""
    if config.engine.kind != "vllm" or config.is_demo_model:
        return None
    pool, arguments = config.pool(role), config.engine_args(role)
    try:
        setup = Setup(find_model(config.model), Layout(tp=pool.tensor_parallel_size, pp=int(arguments.get("pipeline_parallel_size", 1))))
    except ConfigError:
        return None
    wanted = arguments.get("max_model_len")
    wanted_tokens = wanted if isinstance(wanted, int) else 0
    adapters = _adapters(config, setup, arguments)
    if pool.on_cpu:
        if not (space := config.engine.env.get("VLLM_CPU_KVCACHE_SPACE")):
            return None  # vLLM then takes what it finds
        weights = weight_bytes(setup) * _widening(arguments)
        kv = float(space) * _GIB
        return Fit(str(role), weights, kv, _tokens(setup, kv, arguments), wanted_tokens, weights + kv + adapters, adapters)
    if gpu_bytes is None:
        return None
    step = Step(chunks=(Chunk(float(arguments.get("max_num_batched_tokens", _STEP_TOKENS))),))
    share = float(arguments.get("gpu_memory_utilization", _UTILISATION))
    found = memory(setup, _gpu(gpu_bytes), step, share)
    kv = found.kv_bytes - adapters
    return Fit(str(role), found.weight_bytes, kv, _tokens(setup, kv, arguments), wanted_tokens, 0.0, adapters)


def _adapters(config: BatonConfig, setup: Setup, arguments: dict[str, Any]) -> float:
    """As many as a worker may hold, of the largest rank allowed."""
    if not config.lora.enabled:
        return 0.0
    value_bytes = 2.0 * (_widening(arguments) if arguments.get("lora_dtype", "auto") == "auto" else 1.0)
    sharded = bool(arguments.get("fully_sharded_loras", False))
    return config.lora.max_loaded * adapter_bytes(setup, config.lora.max_rank, value_bytes, fully_sharded=sharded)


def _tokens(setup: Setup, kv_bytes: float, arguments: dict[str, Any]) -> int:
    per_token = kv_bytes_per_sequence(setup, 1.0) * _widening(arguments)
    if arguments.get("kv_cache_dtype", "auto").startswith("fp8"):
        per_token /= 2.0
    return max(0, int(kv_bytes / per_token))


def _widening(arguments: dict[str, Any]) -> float:
    """The model's shape knows no 32 bits."""
    return 2.0 if arguments.get("dtype") in {"float32", "float"} else 1.0


def _gpu(memory_bytes: int) -> Hardware:
    """Only its memory is asked for."""
    return Hardware("", "", float(memory_bytes), 1.0, {16: 1.0}, 1.0, 1, 1.0)
