"""The workers that both systems are given: how many, how fast, with how much memory and which links."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from core.router_config import RouterConfig
from core.step_model import StepModel
from deploy.demo_model import VOCAB_SIZE
from engine.performance.registry import kv_bytes_per_token, step_model_by_name


@dataclass(frozen=True)
class Fleet:
    """Simulated workers, slowed down ``slowdown`` times. ``timing`` names step times; docs/simulator.md lists them.

    Baton is told so (``engine.simulated.slowdown``): its routers' clocks and constants are as slow as the engines. Dynamo's mocker is given
    longer steps and slower links; its router's constants, if it has any in seconds, are the wall's.

    Dynamo's mocker looks prefill times up by tokens alone, without what they attend to, so the square term is left out for both.
    """

    timing: str
    slowdown: float
    prefill: int
    decode: int
    num_blocks: int = 24_000
    block_size_tokens: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int = 131_072
    link_gbps: float = 200.0

    @property
    def step(self) -> StepModel:
        """In the engines' own seconds."""
        return msgspec.structs.replace(step_model_by_name(self.timing), prefill_square_s=0.0)

    @property
    def slowed(self) -> StepModel:
        """In the wall's."""
        return StepModel(**{name: value * self.slowdown for name, value in msgspec.structs.asdict(self.step).items()})

    @property
    def kv_bytes_per_token(self) -> int:
        return kv_bytes_per_token(self.timing)

    @property
    def sizes(self) -> dict[str, Any]:
        """Of an engine, by the names of ``SimulatedEngineConfig``."""
        return {
            "block_size_tokens": self.block_size_tokens,
            "num_blocks": self.num_blocks,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "kv_bytes_per_token": self.kv_bytes_per_token,
        }

    def baton_args(self, model: Path, policy: str, ttft_s: float, tpot_s: float) -> dict[str, Any]:
        """What differs from the demo's configuration. All in the engines' seconds but what is between processes."""
        pulse_s = RouterConfig().heartbeat_s * self.slowdown
        pool = {"num_cpus": 0.05, "silence_timeout_s": 600.0, "stall_timeout_s": 600.0}
        simulated = {
            "timing": {"type": "polynomial", **msgspec.structs.asdict(self.step)},
            "vocab_size": VOCAB_SIZE,
            "special_token_ids": list(range(16)),
            "link_gbps": self.link_gbps,
            "slowdown": self.slowdown,
            **self.sizes,
        }
        engine_args = {"max_model_len": self.max_model_len, "enforce_eager": True, "dtype": "float32"}
        return {
            "model": str(model),
            "served_model_name": "demo",
            "engine": {"kind": "simulated", "args": engine_args, "simulated": simulated},
            "prefill": {"count": self.prefill, **pool},
            "decode": {"count": self.decode, **pool},
            "kv_transfer": {"backend": "simulated", "lease_s": 30.0},
            "router": {"num_cpus": 0.2, "policy": policy, "heartbeat_s": pulse_s, "worker_timeout_s": 10 * pulse_s},
            "objectives": {"ttft_s": ttft_s, "tpot_s": tpot_s},
        }

    def mocker_args(self, profile: Path) -> list[str]:
        """Of a Dynamo mocker process, whatever its role."""
        options = {
            "block-size": self.block_size_tokens,
            "num-gpu-blocks-override": self.num_blocks,
            "max-num-seqs": self.max_num_seqs,
            "max-num-batched-tokens": self.max_num_batched_tokens,
            "kv-bytes-per-token": self.kv_bytes_per_token,
            "kv-transfer-bandwidth": self.link_gbps / 8 / self.slowdown,
            "planner-profile-data": profile,
        }
        return [part for name, value in options.items() for part in (f"--{name}", str(value))]

    def write_profile(self, path: Path) -> None:
        """The same step times as a table in the mocker's form (npz): it goes in straight lines between the points."""
        step = self.slowed
        tokens = np.array([1.0, self.max_num_batched_tokens, self.max_model_len])
        held = np.linspace(0.0, self.num_blocks * self.block_size_tokens, 64)
        # The batch is what is held over the context of one: close together where that bends.
        context = np.geomspace(self.block_size_tokens, self.max_model_len, 96)
        batch = held[:, None] / context[None, :]
        decode_s = step.decode_base_s + step.decode_request_s * batch + step.decode_context_s * held[:, None]
        np.savez(
            path,
            prefill_isl=tokens,
            prefill_ttft_ms=1000 * (step.prefill_base_s + step.prefill_token_s * tokens),
            decode_active_kv_tokens=held,
            decode_context_length=context,
            decode_itl=1000 * decode_s,
        )
