"""What a vLLM engine with these arguments has room for, without a GPU to ask: from its arguments, vLLM's defaults and the memory model."""

from __future__ import annotations

from core.config import BatonConfig
from core.errors import ConfigError
from core.worker import Role
from engine.performance import registry
from engine.performance.roofline.find_model import find_model
from engine.performance.roofline.hardware import Hardware, find_hardware
from engine.performance.roofline.layout import Layout
from engine.performance.roofline.memory import kv_bytes_per_sequence, memory
from engine.performance.roofline.named import roofline_by_name
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Chunk, Step
from engine.sim_config import SimulatedEngineConfig

_BLOCK_TOKENS = 128
"""Where ``block_size`` is not given. vLLM's own default is 16, and eight times as much to look after; what a trace shares is in blocks of
512, and the last block of an answer is at most so much emptier."""
_MAX_MODEL_LEN = 131_072
_LARGE_BYTES, _LARGEST_BYTES = 70 * 2**30, 160 * 2**30
_UTILISATION = 0.9
"""vLLM's ``gpu_memory_utilization``."""


def engine_of_args(config: BatonConfig, role: Role) -> SimulatedEngineConfig:
    """The simulated engine that does as vLLM would. ``step_times`` must be given. Raises ConfigError where the model does not fit."""
    args = {name.removeprefix("--").replace("-", "_"): value for name, value in config.engine_args(role).items()}
    name = config.pool(role).step_times or config.engine.step_times
    assert name is not None
    setup, hardware = _setup(name)
    usual_tokens, usual_seqs = _budgets(hardware)
    step_tokens = int(args.get("max_num_batched_tokens") or usual_tokens)
    block_tokens = int(args.get("block_size") or _BLOCK_TOKENS)
    utilisation = float(args.get("gpu_memory_utilization") or _UTILISATION)
    blocks = int(args.get("num_gpu_blocks_override") or _kv_tokens(setup, hardware, step_tokens, utilisation) // block_tokens)
    return SimulatedEngineConfig(
        block_size_tokens=block_tokens,
        num_blocks=blocks,
        max_model_len=min(int(args.get("max_model_len") or _MAX_MODEL_LEN), blocks * block_tokens),
        max_num_seqs=int(args.get("max_num_seqs") or usual_seqs),
        max_num_batched_tokens=step_tokens,
        long_prefill_threshold_tokens=int(args.get("long_prefill_token_threshold") or 0),
        policy=args.get("scheduling_policy", "fcfs"),
        kv_bytes_per_token=registry.kv_bytes_per_token(name),
        lease_s=config.kv_transfer.lease_s,
    )


def _budgets(hardware: Hardware) -> tuple[int, int]:
    """vLLM's defaults for tokens per step and requests at once, as a server (``EngineArgs.get_batch_defaults``)."""
    if hardware.memory_bytes < _LARGE_BYTES or hardware.name.startswith("a100"):
        return 2048, 256
    return (16_384, 1024) if hardware.memory_bytes >= _LARGEST_BYTES else (8192, 1024)


def _setup(name: str) -> tuple[Setup, Hardware]:
    """What is computed on what. The models and GPUs of measured names are among those that come with Baton."""
    if registry.is_roofline(name):
        roofline = roofline_by_name(name).roofline
        return roofline.setup, roofline.hardware
    registry.timing_by_name(name)  # raises for an unknown one, with the known ones
    gpu, model_and_tp = name.split("-", 1)
    model, tp = model_and_tp.rsplit("-tp", 1)
    return Setup(find_model(model), Layout(int(tp), 1, 1)), find_hardware(gpu)


def _kv_tokens(setup: Setup, hardware: Hardware, step_tokens: int, utilisation: float) -> int:
    room = memory(setup, hardware, Step((Chunk(float(step_tokens)),)), utilisation)
    if not room.fits:
        raise ConfigError(
            f"it does not fit on {setup.layout.gpus} x {hardware.name}: each has {room.usable_bytes / 1e9:.0f} GB to use, and weights "
            f"take {room.weight_bytes / 1e9:.0f}; name more GPUs, as in `:tp{2 * setup.layout.tp}`",
            "engine.step_times",
        )
    return int(room.kv_bytes / kv_bytes_per_sequence(setup, 1.0))
