"""How soon a burst of prompts changes roles: ``python -m benchmarks.burst_relabel``.

On the virtual clock, so on any machine the same: two prefill and six decode workers (step times of Llama-3.1-8B on an H100, about) have
six requests a second with long answers for forty seconds; then, from one moment to the next, five times as many, with long prompts. Timed
is from the first of those to the first plan that gives decode workers to prefill, with several seeds, for two intervals between plans.
What carrying it out takes is measured by ``python -m benchmarks.relabel``.
"""

from __future__ import annotations

import gc
import random
import sys

from autoscaler.plan import Relabel
from autoscaler.policy import Objective, PoolLimits, ScalerLimits, ScalerPolicy
from autoscaler.scaler import BatonScaler
from benchmarks.scaler import STEP
from core.worker import Role
from engine.sim_config import SimulatedEngineConfig
from router.balancer.registry import make_policy
from router.service import WantedService
from simulation.cluster import ClusterSpec, Pool
from simulation.elastic import ElasticCluster, Pace
from simulation.traces import Trace, TraceRequest

SEEDS = 6
INTERVALS_S = (0.5, 2.0)
BURST_S, ENDS_S = 40.0, 50.0
BEFORE, AFTER = (6.0, 1000, 400), (30.0, 4000, 100)
"""Requests per second, prompt tokens and output tokens."""
OBJECTIVE = Objective(2.0, 0.05)
LIMITS = ScalerLimits(PoolLimits(1, 8), PoolLimits(1, 8), 8)
ENGINE = SimulatedEngineConfig(
    block_size_tokens=128, num_blocks=3200, max_model_len=131_072, max_num_seqs=256, max_num_batched_tokens=2048, kv_bytes_per_token=131_072
)


def traffic(seed: int) -> Trace:
    """Poisson arrivals, exponential answers."""
    rng, requests, at_s = random.Random(seed), [], 0.0
    while at_s < ENDS_S:
        rate, prompt_tokens, output_tokens = BEFORE if at_s < BURST_S else AFTER
        at_s += rng.expovariate(rate)
        requests.append(TraceRequest(at_s, prompt_tokens, 1 + int(rng.expovariate(1 / output_tokens))))
    return Trace("burst", requests, ENGINE.block_size_tokens)


def delay_s(seed: int, interval_s: float) -> float | None:
    """From the burst's first request to the plan; None where there was none."""
    pools = [Pool(Role.PREFILL, 2, ENGINE), Pool(Role.DECODE, 6, ENGINE)]
    service = WantedService(ttft_s=OBJECTIVE.ttft_s, tpot_s=OBJECTIVE.tpot_s)
    spec = ClusterSpec(pools, STEP, lambda rng, predictions: make_policy("baton", rng, predictions), service=service)
    scaler = BatonScaler(LIMITS, ScalerPolicy(objective=OBJECTIVE, season_s=None))
    cluster, trace = ElasticCluster(spec, seed, scaler, Pace(every_s=interval_s)), traffic(seed)
    cluster.replay(trace)
    first_s = next(each.arrival_s for each in trace.requests if each.arrival_s >= BURST_S)
    moved = (plan.at_s for plan in cluster.plans if plan.at_s >= first_s and any(_to_prefill(action) for action in plan.actions))
    return next((at_s - first_s for at_s in moved), None)


def _to_prefill(action: object) -> bool:
    return isinstance(action, Relabel) and action.role is Role.PREFILL


def main() -> None:
    """Prints a table."""
    gc.freeze()
    for interval_s in INTERVALS_S:
        found: list[float] = []
        for seed in range(SEEDS):
            took_s = delay_s(seed, interval_s)
            found += [] if took_s is None else [took_s]
            print(f"\r{seed + 1} of {SEEDS} seeds", end="", file=sys.stderr, flush=True)
        found.sort()
        print(file=sys.stderr)
        middle = f"p50 {found[len(found) // 2]:.2f} s, at most {found[-1]:.2f} s" if found else "none"
        print(f"a plan every {interval_s:g} s: {middle} ({len(found)} of {SEEDS} bursts changed roles)", flush=True)


if __name__ == "__main__":
    main()
