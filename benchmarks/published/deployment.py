"""A measured deployment in the simulator's words, or why it has none for it.

What the rows do not tell is assumed for all of them alike, and nothing here was chosen by what came out:

- Steps of at most 8,192 tokens of prompts. KV in 8 bits, as the recipes have it.
- Of models in 4 bits, experts alone are narrow (as NVIDIA publishes DeepSeek-R1 and Kimi); of dense models all linear layers.
- A group of data parallel attention is a worker of its own. The roofline takes its siblings to be as busy as it is.
- Experts that are split like everything else, below data parallel attention, are taken to be spread instead: as many bytes on each GPU.
- KV goes over the fastest link that all GPUs of the deployment share, as many ports as the smaller worker has GPUs.
"""

from __future__ import annotations

import random
from functools import cache

import msgspec

from benchmarks.published.rows import Row, Side
from core.errors import ConfigError
from core.step_model import StepModel, StepWork
from core.worker import Role
from engine.performance.roofline.memory import kv_bytes_per_sequence, memory
from engine.performance.roofline.named import RooflineTime, roofline_by_name
from engine.performance.roofline.step import Chunk, Step
from engine.sim_config import SimulatedEngineConfig
from router.balancer.base import Policy, Predictions
from router.balancer.registry import make_policy
from router.queue import QueueLimits
from simulation.cluster import ClusterSpec, Pool
from simulation.kv_network import Port
from simulation.worker import Beats

STEP_TOKENS = 8192
"""Of prompts."""
_BLOCK_TOKENS = 64
_BITS_PER_BYTE = 8
_ALL = 10**9
_BEATS = Beats(pulse_s=2.0, report_s=0.5, progress_s=10.0)
"""Rarer than a real worker's, for speed: this policy goes by what the router itself has sent and seen end."""
_MODELS = {
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "moonshotai/Kimi-K2.5": "kimi-k2.5",
    "nvidia/Qwen3-32B-NVFP4": "qwen3-32b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "Qwen/Qwen3-235B-A22B-FP8": "qwen3-235b-a22b",
}
_GPUS = {"h100_sxm": "h100", "h200_sxm": "h200", "b200_sxm": "b200", "gb200": "gb200", "gb300": "gb300"}
_DENSE = frozenset({"qwen3-32b"})


class UnexpressedError(Exception):
    """Why a row cannot be simulated, in words."""


class Deployment(msgspec.Struct, frozen=True):
    """What is simulated of a row."""

    prefill: str
    """Name of the step times of each prefill worker; ``engine.performance.registry``."""
    decode: str
    prefill_workers: int
    decode_workers: int
    clients: int
    input_tokens: int
    output_tokens: int
    gpus: int
    prefill_pace: float = 1.0
    """Steps take so many times what the roofline says."""
    decode_pace: float = 1.0


class Paced(msgspec.Struct, frozen=True):
    """Step times that are all so many times as long as the roofline's."""

    roofline: RooflineTime
    pace: float

    def step_s(self, work: StepWork) -> float:
        return self.pace * self.roofline.step_s(work)

    @property
    def step_model(self) -> StepModel:
        """Six coefficients for the same."""
        model = self.roofline.step_model
        return StepModel(*(self.pace * getattr(model, name) for name in model.__struct_fields__))


def expressed(row: Row) -> Deployment:
    """Raises UnexpressedError."""
    if row.clients is None:
        raise UnexpressedError("it is not told how many requests there were at a time")
    if row.gpu not in _GPUS:
        raise UnexpressedError(f"no hardware is known as {row.gpu}")
    if row.model not in _MODELS:
        raise UnexpressedError(f"no model is known as {row.model}")
    found = Deployment(
        prefill=_name(row, row.prefill),
        decode=_name(row, row.decode),
        prefill_workers=row.prefill.workers * row.prefill.groups,
        decode_workers=row.decode.workers * row.decode.groups,
        clients=row.clients,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        gpus=row.gpus,
    )
    for name in (found.prefill, found.decode):
        if kv_blocks(name) * _BLOCK_TOKENS < found.input_tokens + found.output_tokens:
            raise UnexpressedError(f"by the roofline's memory, {name} has no room for one request")
    return found


def spec(deployment: Deployment) -> ClusterSpec:
    """The cluster, with production's router. It hands every request over and refuses nobody, as the measured systems do."""
    prefill, decode = roofline_by_name(deployment.prefill), roofline_by_name(deployment.decode)
    gpus = min(prefill.tp, decode.tp)
    port_bytes_per_s = gpus * decode.roofline.hardware.exchange_bytes_per_s(deployment.gpus)
    pools = [
        _pool(Role.PREFILL, deployment.prefill_workers, deployment, Paced(prefill, deployment.prefill_pace)),
        _pool(Role.DECODE, deployment.decode_workers, deployment, Paced(decode, deployment.decode_pace)),
    ]
    return ClusterSpec(
        pools=pools,
        step=prefill.step_model,
        policy=_policy,
        max_tokens=deployment.output_tokens,
        port=Port(gbps=port_bytes_per_s * _BITS_PER_BYTE / 1e9),
        queue=QueueLimits(max_requests=_ALL, max_tokens=_ALL, max_wait_s=_ALL, refuse_hopeless=False, longest_makes_way=False),
        first_from_decode=True,
        beats=_BEATS,
    )


@cache
def kv_blocks(name: str) -> int:
    """That fit in the memory of one worker with these step times."""
    roofline = roofline_by_name(name).roofline
    found = memory(roofline.setup, roofline.hardware, Step((Chunk(STEP_TOKENS),)))
    return max(0, int(found.kv_bytes / kv_bytes_per_sequence(roofline.setup, 1.0))) // _BLOCK_TOKENS


def _pool(role: Role, count: int, deployment: Deployment, timing: Paced) -> Pool:
    name = deployment.prefill if role is Role.PREFILL else deployment.decode
    longest_tokens = deployment.input_tokens + deployment.output_tokens
    engine = SimulatedEngineConfig(
        block_size_tokens=_BLOCK_TOKENS,
        # More than all clients together can fill would only take memory of ours.
        num_blocks=min(kv_blocks(name), (deployment.clients + 1) * -(-longest_tokens // _BLOCK_TOKENS)),
        max_model_len=longest_tokens,
        max_num_seqs=deployment.clients,
        max_num_batched_tokens=max(STEP_TOKENS, deployment.clients),
        kv_bytes_per_token=timing.roofline.kv_bytes_per_token,
        lease_s=_ALL,
        kv_events=False,
    )
    return Pool(role, count, engine, step=timing.step_model, timing=timing)


def _policy(rng: random.Random, predictions: Predictions) -> Policy:
    return make_policy("least_outstanding_tokens", rng, predictions)


def _name(row: Row, side: Side) -> str:
    model = _MODELS[row.model]
    gpus = side.tp * side.groups
    if side.ep not in {0, 1, gpus}:
        raise UnexpressedError(f"experts are spread over {side.ep} of the {gpus} GPUs of an engine")
    ep = gpus if side.groups > 1 or side.ep > 1 else 1
    if model in _DENSE:
        if side.groups > 1:
            raise UnexpressedError("data parallel attention of a model without experts")
        ep = 1
    name = f"roofline:{_GPUS[row.gpu]}:{model}:tp{side.tp}:ep{ep}:{_bits(row.precision, model)}"
    try:
        roofline_by_name(name)
    except ConfigError as error:
        raise UnexpressedError(f"{name}: {error}") from None
    return name


def _bits(precision: str, model: str) -> str:
    if precision == "fp8":
        return "w8a8kv8"
    if precision == "fp4":
        return "w4a4kv8" if model in _DENSE else "w16a16kv8e4a4"
    raise UnexpressedError(f"no bits are known as {precision}")
