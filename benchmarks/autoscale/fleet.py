"""The cluster of all scenarios, and the scalers that are compared on it."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from autoscaler.base import Scaler
from autoscaler.dynamo_planner import DynamoPlanner
from autoscaler.policy import Objective, PoolLimits, ScalerLimits, ScalerPolicy
from autoscaler.proportional import ProportionalScaler
from autoscaler.scaler import BatonScaler
from autoscaler.static import StaticScaler
from benchmarks.autoscale.scenarios import BLOCK_TOKENS, DAY_S
from core.worker import Role
from engine.performance.registry import kv_bytes_per_token, step_model_by_name
from engine.sim_config import SimulatedEngineConfig
from router.balancer.registry import make_policy
from router.service import WantedService
from simulation.cluster import ClusterSpec, Pool

MODEL = "h200-qwen3-32b-tp1"
"""Workers of one H200 each; step times of ``engine.performance``."""
KV_TOKENS = 230_400
"""56 GiB of KV cache: 0.9 of 141 GB, less 65 GB of weights and what a step needs."""
OBJECTIVE = Objective(8.0, 0.06)
BUDGET = 24
LIMITS = ScalerLimits(PoolLimits(1, BUDGET - 1), PoolLimits(1, BUDGET - 1), BUDGET)


class Setup(msgspec.Struct, frozen=True, order=True):
    """A scaler with its settings, as far as it has any, and how many workers there are when it begins.

    Settings are, of ``proportional``: requests per prefill and per decode worker; of ``dynamo`` and ``dynamo-throughput``: seconds between
    turns of the slow loop, and 1 for the kalman predictor, 0 for the constant one; of ``baton``: ``utilisation``, ``shrink_after_s`` and
    ``mixes``, as far as they are not the defaults.
    """

    scaler: str
    settings: tuple[float, ...] = ()
    prefill: int = 3
    decode: int = 2

    @property
    def name(self) -> str:
        """Short."""
        if self.scaler == "static":
            return f"static {self.prefill}P{self.decode}D"
        return " ".join([self.scaler, *(f"{each:g}" for each in self.settings)])


def make(setup: Setup) -> Scaler[Any]:
    """The scaler."""
    match setup.scaler:
        case "static":
            return StaticScaler(setup.prefill, setup.decode)
        case "proportional":
            return ProportionalScaler(LIMITS, *setup.settings)
        case "dynamo" | "dynamo-throughput":
            interval_s, trend = setup.settings
            return DynamoPlanner(LIMITS, OBJECTIVE, load_loop=setup.scaler == "dynamo", interval_s=interval_s, follows_trend=bool(trend))
    changes = dict(zip(("utilisation", "shrink_after_s", "mixes"), setup.settings, strict=False))
    return BatonScaler(LIMITS, msgspec.structs.replace(ScalerPolicy(objective=OBJECTIVE, season_s=DAY_S), **changes))


def spec(setup: Setup) -> ClusterSpec:
    """The cluster, as it is at the beginning."""
    return ClusterSpec(
        pools=[Pool(Role.PREFILL, setup.prefill, _engine()), Pool(Role.DECODE, setup.decode, _engine())],
        step=step_model_by_name(MODEL),
        policy=lambda rng, predictions: make_policy("baton", rng, predictions),
        service=WantedService(ttft_s=OBJECTIVE.ttft_s, tpot_s=OBJECTIVE.tpot_s),
    )


@cache
def _engine() -> SimulatedEngineConfig:
    return SimulatedEngineConfig(
        block_size_tokens=BLOCK_TOKENS,
        num_blocks=KV_TOKENS // BLOCK_TOKENS,
        max_model_len=131_072,
        max_num_seqs=256,
        max_num_batched_tokens=2048,
        kv_bytes_per_token=kv_bytes_per_token(MODEL),
    )
