"""What it is worth to know who has an adapter loaded: `python -m benchmarks.adapters`, on a virtual clock, with production's balancer.

Prompts of different adapters share nothing. Which adapter is asked for follows Zipf's law: a few often, most now and then.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from core.step_model import StepModel
from core.worker import Role
from engine.sim_config import SimulatedEngineConfig
from router.balancer.base import Policy, Predictions
from router.balancer.joint import Joint
from router.balancer.registry import make_policy
from simulation.cluster import Cluster, ClusterSpec, Pool
from simulation.record import Record
from simulation.traces import MOONCAKE_BLOCK_TOKENS, Trace, synthetic

STEP = StepModel(
    prefill_base_s=0.006, prefill_token_s=4e-5, prefill_square_s=0.0, decode_base_s=0.007, decode_request_s=3e-5, decode_context_s=2e-8
)
"""About Llama-3.1-8B on an H100."""

POLICIES: dict[str, Callable[[random.Random, Predictions], Policy]] = {
    "baton": lambda rng, predictions: Joint(predictions, rng),
    "baton without `load`": lambda rng, predictions: Joint(predictions, rng, frozenset({"load"})),
    **{
        name: lambda rng, predictions, name=name: make_policy(name, rng, predictions)  # type: ignore[misc]
        for name in ("least_outstanding_tokens", "round_robin")
    },
}


def with_adapters(trace: Trace, adapters: int, rng: random.Random) -> Trace:
    """The same requests, each with one of so many adapters; blocks are called otherwise with each."""
    weights = [1 / (number + 1) for number in range(adapters)]
    drawn = rng.choices(range(adapters), weights, k=len(trace.requests))
    named = [
        replace(each, adapter=f"adapter-{number}", block_hashes=tuple(block * adapters + number for block in each.block_hashes))
        for each, number in zip(trace.requests, drawn, strict=True)
    ]
    return replace(trace, requests=named)


def replayed(
    make: Callable[[random.Random, Predictions], Policy], trace: Trace, workers: int, slots: int, load_s: float, seed: int
) -> tuple[Sequence[Record], list[int]]:
    """What clients got, and how many adapters each worker loaded."""
    engine = SimulatedEngineConfig(
        block_size_tokens=MOONCAKE_BLOCK_TOKENS,
        num_blocks=512,
        max_model_len=16_384,
        max_num_seqs=64,
        max_num_batched_tokens=8192,
        kv_bytes_per_token=131_072,
        adapter_slots=slots,
        adapter_load_s=load_s,
    )
    pools = [Pool(role, workers // 2, engine) for role in Role]
    cluster = Cluster(ClusterSpec(pools, STEP, make, routers=2, max_tokens=512), seed)
    records = cluster.replay(trace)
    return records, [worker.adapters.loads for worker in cluster.workers.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=16, help="half of them prefill")
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8, help="adapters a worker holds")
    parser.add_argument("--load-s", type=float, default=0.25)
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    plain = synthetic(rng, requests=asked.requests, rate=asked.rate, prompt_tokens=1500, output_tokens=150)
    trace = with_adapters(plain, asked.adapters, rng)
    print(f"{asked.workers} workers, {asked.slots} slots each, {asked.adapters} adapters, {asked.load_s:g} s a load, {asked.rate:g} req/s")
    print("\n| policy | TTFT mean | p50 | p99 | TPOT p50 | loads per request | most loads of a worker, of the mean |")
    print("|---|---|---|---|---|---|---|")
    for name, make in POLICIES.items():
        began_s = time.monotonic()
        records, loads = replayed(make, trace, asked.workers, asked.slots, asked.load_s, asked.seed)
        print(_row(name, records, loads), flush=True)
        print(f"{name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr)


def _row(name: str, records: Sequence[Record], loads: Sequence[int]) -> str:
    ttft = [record.ttft_s for record in records if record.ttft_s is not None]
    tpot = [record.tpot_s for record in records if record.tpot_s is not None]
    cuts = statistics.quantiles(ttft, n=100)
    uneven = max(loads) / max(1e-9, statistics.mean(loads))
    figures = f"{statistics.mean(ttft):.3f} s | {cuts[49]:.3f} s | {cuts[98]:.3f} s | {1000 * statistics.median(tpot):.1f} ms"
    return f"| {name} | {figures} | {sum(loads) / len(records):.3f} | {uneven:.2f} |"


if __name__ == "__main__":
    main()
