"""The cluster that a configuration asks for, as it is simulated. Reads the configuration; decides nothing."""

from __future__ import annotations

import random
from dataclasses import replace

from cluster.scaling_policy import make_scaler
from core.config import BatonConfig
from core.errors import ConfigError
from core.step_model import StepModel
from core.worker import Role
from engine import expected
from engine.sim_config import SimulatedEngineConfig
from engine.sim_timing import ConstantTime
from router.balancer.base import Policy, Predictions
from router.balancer.registry import make_policy
from router.limits import Limits
from router.objectives import Promises
from simulation.cluster import ClusterSpec, Pool
from simulation.elastic import ElasticCluster, Pace
from simulation.engine_of_args import engine_of_args
from simulation.kv_network import Port
from simulation.worker import Beats

_TIMELESS = (
    "nothing says how long a step of the {} workers takes. Write `engine.step_times: NAME`, or `{}.step_times` for that pool alone: a "
    "measured one such as `h100-llama-3.1-8b-tp1`, or `roofline:<hardware>:<model>:tp<N>` for any other; docs/simulator.md has the names"
)


def spec_of(config: BatonConfig) -> ClusterSpec:
    """Raises ConfigError where the configuration does not say how long steps take, or its model does not fit."""
    limits, link = Limits.of_config(config), expected.link(config)
    routers, usual = config.router.replicas, Port()
    pools = [_pool(config, role) for role in Role if config.pool(role).count or config.autoscaling.enabled]
    steps = [pool.step for pool in pools if pool.step is not None]

    def policy(rng: random.Random, predictions: Predictions) -> Policy:
        return make_policy(config.router.policy, rng, predictions)

    return ClusterSpec(
        pools=pools,
        step=steps[0],
        policy=policy,
        service=Promises.of_config(config).wanted("default", {}),
        routers=routers,
        port=Port(usual.gbps if link.gbps is None else link.gbps, usual.latency_s if link.latency_s is None else link.latency_s),
        beats=Beats.of_many(sum(pool.count for pool in pools), config.router.heartbeat_s),
        # Of all routers together; a configuration's is each one's.
        queue=replace(limits.queue, max_requests=limits.queue.max_requests * routers, max_tokens=limits.queue.max_tokens * routers),
        give_up_after_s=limits.give_up_after_s,
        request_timeout_s=limits.request_timeout_s,
        lost_after_s=config.router.worker_timeout_s,
        pull_timeout_s=config.kv_transfer.pull_timeout_s,
    )


def cluster_of(config: BatonConfig, seed: int) -> ElasticCluster:
    """With the autoscaler, where the configuration has one. Raises ConfigError like ``spec_of``."""
    scaling = config.autoscaling
    pace = Pace(every_s=scaling.interval_s, start_up_s=scaling.start_up_s)
    return ElasticCluster(spec_of(config), seed, make_scaler(config) if scaling.enabled else None, pace)


def gpus_of(config: BatonConfig, role: Role) -> float:
    """Of one worker. A simulated engine has none: then as many as its model is split over."""
    pool = config.pool(role)
    return pool.num_gpus or float(pool.tensor_parallel_size)


def _pool(config: BatonConfig, role: Role) -> Pool:
    pool = config.pool(role)
    step = _step(config, role)
    simulated = config.engine.kind == "simulated"
    engine = SimulatedEngineConfig.of_config(config, "127.0.0.1") if simulated else engine_of_args(config, role)
    return Pool(role, pool.count, engine, pool.max_prefill_tokens, step=step, headroom_tokens=pool.headroom_tokens)


def _step(config: BatonConfig, role: Role) -> StepModel:
    known = expected.step_model(config, role)
    if known is not None:
        return known
    if config.engine.kind == "simulated":
        timing = SimulatedEngineConfig.of_config(config, "127.0.0.1").timing
        if isinstance(timing, ConstantTime) and timing.seconds > 0:
            return StepModel(prefill_base_s=timing.seconds, decode_base_s=timing.seconds)
    raise ConfigError(_TIMELESS.format(role, role), "engine.step_times")
