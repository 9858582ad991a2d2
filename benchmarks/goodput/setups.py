"""What is compared: sixteen GPUs in three set-ups, under the policies there are, on two traces."""

from __future__ import annotations

import hashlib
import random
from functools import cache, partial
from pathlib import Path

import msgspec

from benchmarks import digest
from core.worker import Role
from engine.performance.registry import kv_bytes_per_token, step_model_by_name
from engine.sim_config import SimulatedEngineConfig
from router.balancer.base import Policy, Predictions
from router.balancer.joint import Joint
from router.balancer.registry import make_policy
from router.queue import QueueLimits
from router.service import WantedService
from simulation.cluster import ClusterSpec, Pool
from simulation.goodput import Objective
from simulation.traces import Trace, azure, mooncake

GPUS = 16
MODEL = "h100-llama-3.1-8b-tp1"
"""Sixteen workers of one H100 each; step times of ``engine.performance``."""
BLOCK_TOKENS = 128
KV_TOKENS = 409_600
"""50 GiB of KV cache: 0.9 of 80 GB, less 16 GB of weights and what a step of 8,192 tokens needs."""
PREFILL_STEP_TOKENS = 2048
MAX_TOKENS = 2048
TRACES = Path(__file__).parents[1] / "traces"
_TRACE_SEED = 1
_WITHOUT = "baton-without-"
_REFUSE_EARLY = frozenset({"mooncake_ttft"})
"""Policies that do so in their own system, too."""


class Setup(msgspec.Struct, frozen=True, order=True):
    """Sixteen GPUs and who decides. No prefill workers: all aggregated."""

    policy: str
    prefill: int
    step_tokens: int = 2048
    """``max_num_batched_tokens`` of the workers that decode: with a small one, prompts computed there hold running answers up less."""
    routers: int = 1
    lent: bool = True
    """With what the router does for every policy: who cannot be served as promised is refused. False: as in the policy's own system."""

    @property
    def kind(self) -> str:
        """Which of the three set-ups it is."""
        if self.policy.startswith("baton"):
            return "per request"
        return "disaggregated" if self.prefill else "aggregated"

    @property
    def refuses(self) -> bool:
        """Whether requests are refused for what is predicted of them."""
        return self.lent or self.policy in _REFUSE_EARLY

    @property
    def name(self) -> str:
        """Short."""
        workers = f"{self.prefill}P{GPUS - self.prefill}D" if self.prefill else f"{GPUS}A"
        return (
            f"{self.policy} {workers} {self.step_tokens}"
            + (f" {self.routers} routers" if self.routers > 1 else "")
            + ("" if self.lent else " own")
        )


class Run(msgspec.Struct, frozen=True):
    """One simulation, named completely."""

    setup: Setup
    trace: str
    requests: int
    rate: float
    objective: Objective
    seed: int = 1

    @property
    def key(self) -> str:
        """The same for the same run, in every process. All code is part of it, constants and traces too, so that outcomes of one version
        are never held against those of another."""
        return hashlib.sha256(msgspec.json.encode(self) + code().encode()).hexdigest()[:20]


def code() -> str:
    """Of all that decides a run's outcome: another name for every version."""
    return digest.code(*(f"benchmarks/goodput/{name}.py" for name in ("setups", "runs")))


@cache
def trace(name: str) -> Trace:
    """Blocks as the engines have them. One order of arrival, whatever the seed of the run."""
    if name == "azure_code":
        return azure(TRACES / "azure_code.csv.xz").in_blocks_of(BLOCK_TOKENS)
    return mooncake(TRACES / f"{name}.jsonl.xz", random.Random(_TRACE_SEED)).in_blocks_of(BLOCK_TOKENS)


def spec(run: Run) -> ClusterSpec:
    """The cluster of a run."""
    setup, objective = run.setup, run.objective
    pools = [Pool(Role.DECODE, GPUS - setup.prefill, _engine(setup.step_tokens))]
    if setup.prefill:
        pools.insert(0, Pool(Role.PREFILL, setup.prefill, _engine(PREFILL_STEP_TOKENS)))
    return ClusterSpec(
        pools=pools,
        step=step_model_by_name(MODEL),
        policy=partial(_policy, setup.policy),
        service=WantedService(ttft_s=objective.ttft_s, tpot_s=objective.tpot_s),
        max_tokens=MAX_TOKENS,
        routers=setup.routers,
        queue=QueueLimits(refuse_hopeless=setup.refuses, longest_makes_way=setup.lent),
    )


def _policy(name: str, rng: random.Random, predictions: Predictions) -> Policy:
    if name.startswith(_WITHOUT):
        return Joint(predictions, rng, without=frozenset({name.removeprefix(_WITHOUT)}))
    return make_policy(name, rng, predictions)


@cache
def _engine(step_tokens: int) -> SimulatedEngineConfig:
    return SimulatedEngineConfig(
        block_size_tokens=BLOCK_TOKENS,
        num_blocks=KV_TOKENS // BLOCK_TOKENS,
        max_model_len=131_072,
        max_num_seqs=256,
        max_num_batched_tokens=step_tokens,
        kv_bytes_per_token=kv_bytes_per_token(MODEL),
    )
