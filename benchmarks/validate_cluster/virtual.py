"""The same deployment under the virtual clock."""

from __future__ import annotations

import random

from benchmarks.validate_cluster.fitting import Reading
from benchmarks.validate_cluster.stack import MAX_MODEL_LEN, MAX_NUM_SEQS, STEP_TOKENS, reading
from benchmarks.validate_cluster.workload import BLOCK_TOKENS
from core.step_model import StepModel
from core.worker import Role
from engine.sim_config import SimulatedEngineConfig
from router.balancer.base import Policy, Predictions
from router.balancer.registry import make_policy
from simulation.cluster import Cluster, ClusterSpec, Pool
from simulation.kv_network import Port
from simulation.traces import Trace


def spec(prefill: int, decode: int, step: StepModel, port: Port, num_blocks: int, kv_bytes_per_token: int) -> ClusterSpec:
    """With the demo's policy. What messages take is in the fitted times already."""
    engine = SimulatedEngineConfig(
        block_size_tokens=BLOCK_TOKENS,
        num_blocks=num_blocks,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=STEP_TOKENS,
        kv_bytes_per_token=kv_bytes_per_token,
    )
    return ClusterSpec(
        pools=[Pool(Role.PREFILL, prefill, engine), Pool(Role.DECODE, decode, engine)],
        step=step,
        policy=_policy,
        port=port,
        message_s=0.0,
    )


def replay(cluster: ClusterSpec, trace: Trace, seed: int) -> list[Reading]:
    """In order of arrival. Raises RuntimeError when a request was not served."""
    records = Cluster(cluster, seed).replay(trace)
    if failed := [record for record in records if not record.is_complete]:
        raise RuntimeError(f"{len(failed)} of {len(records)} simulated requests were not served: {failed[0].failure}")
    return [reading(record) for record in records]


def _policy(rng: random.Random, predictions: Predictions) -> Policy:
    return make_policy("least_outstanding_tokens", rng, predictions)
