"""A set-up as a simulated cluster."""

from __future__ import annotations

import random

from core.worker import Role
from deploy.plan.answer import Answer
from engine.performance.plan.engine_kind import EngineKind
from engine.performance.plan.set_up import SetUp
from engine.sim_config import SimulatedEngineConfig
from router.balancer.base import Policy, Predictions
from router.balancer.registry import make_policy
from router.queue import QueueLimits
from router.service import WantedService
from simulation.cluster import ClusterSpec, Pool
from simulation.kv_network import Port

BLOCK_TOKENS = 128
_POLICY = "baton"
_PREFILL_REQUESTS = 256
"""vLLM's ``max_num_seqs`` where it does not matter."""


def cluster_of(answer: Answer, set_up: SetUp, longest_tokens: int) -> ClusterSpec:
    """For requests of up to so many tokens. Workers that do both are decode workers, as the router gives these whole requests."""
    asked, link = answer.question.asked, set_up.link
    pools = [_pool(answer, Role.DECODE, set_up.decode, set_up.decode_workers, longest_tokens)]
    gpus = set_up.decode.gpus
    if set_up.prefill is not None:
        pools.insert(0, _pool(answer, Role.PREFILL, set_up.prefill, set_up.prefill_workers, longest_tokens))
        gpus = min(gpus, set_up.prefill.gpus)
    step = pools[0].step
    assert step is not None
    return ClusterSpec(
        pools=pools,
        step=step,
        policy=_policy,
        service=WantedService(ttft_s=asked.ttft_s, tpot_s=asked.tpot_s),
        max_tokens=answer.question.workload.output_tokens,
        port=Port(link.port_bytes_per_s(gpus) * 8.0 / 1e9, link.latency_s),
        queue=QueueLimits(refuse_hopeless=True),
    )


def _pool(answer: Answer, role: Role, kind: EngineKind, workers: int, longest_tokens: int) -> Pool:
    timing = answer.kinds.timings[kind.name]
    blocks = max(1, kind.kv_tokens // BLOCK_TOKENS)
    engine = SimulatedEngineConfig(
        block_size_tokens=BLOCK_TOKENS,
        num_blocks=blocks,
        max_model_len=min(longest_tokens + BLOCK_TOKENS, blocks * BLOCK_TOKENS),
        max_num_seqs=_PREFILL_REQUESTS if role is Role.PREFILL else kind.max_batch * kind.groups,
        max_num_batched_tokens=kind.budget_tokens,
        kv_bytes_per_token=timing.kv_bytes_per_token,
    )
    return Pool(role, workers, engine, step=timing.step_model, timing=timing)


def _policy(rng: random.Random, predictions: Predictions) -> Policy:
    return make_policy(_POLICY, rng, predictions)
