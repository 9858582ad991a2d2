"""How long a decision takes: ``python -m benchmarks.decision``.

First the balancer alone, in a made-up cluster in full swing: every worker has prompts ahead and requests decoding, a third of them hold
part of the prompt in their caches. What is timed is ``Balancer.choose``, candidates included, with the default policy.

Then all that a router does for a request's plan, by the production router in a simulated cluster under load: ``Placing.decide``
(looking the prompt up, what is expected of it, its likely lengths and slacks, the choice, the refusal, the books), and the keys of a
prompt of that length, hashed as production does. Libraries are out of the garbage collector's sight, as in a router (``core/heap.py``).
CPU time of one thread: other work on the machine does not count, but for its share of the caches.
"""

from __future__ import annotations

import gc
import logging
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from unittest import mock

from vllm import SamplingParams
from vllm.v1.engine import EngineCoreRequest

from benchmarks.goodput import setups
from core.ids import Epoch, RequestId, WorkerId
from core.step_model import StepModel
from core.worker import EngineFacts, OthersLoad, Role, WorkerCard, WorkerLoad, WorkerState
from router import events as e
from router import instructions as i
from router.balancer.balancer import Balancer
from router.balancer.joint import Joint
from router.entry import Entry
from router.placing import Placing
from router.plan import Ask, Books, WorkerView
from router.predict.links import LinkModel
from router.prefix.prefixes import Prefixes
from simulation.cluster import Cluster
from simulation.goodput import Objective

FACTS = EngineFacts(block_size_tokens=16, num_blocks=30_000, max_model_len=131_072, max_num_seqs=256, max_num_batched_tokens=8192)
MODEL = StepModel(0.008, 2.8e-5, 3e-10, 0.007, 2e-5, 1.2e-8)
LINK = LinkModel(0.001, 2.5e10)
TARGET_MS = {64: 1.0, 1000: 5.0}
LOADED = (16, 64)
"""Workers of the simulated clusters, half of them prefill."""
PER_WORKER = 2.0
"""Requests per second: a little less than they can serve as promised."""
REQUESTS = 500
DECISIONS = 2000


class Known:
    """Predictions without the work of making them."""

    kv_bytes_per_token = 131_072.0

    def step_model(self, seen: WorkerView) -> StepModel:
        return seen.load.step or MODEL

    def link(self, prefill: WorkerId, decode: WorkerId) -> LinkModel:
        return LINK

    def ttft_late_s(self, role: Role, promised_s: float) -> float:
        return 0.0

    def slower_alone(self, role: Role, ratio: float, now: float) -> tuple[int, int]:
        return 0, 0


def cluster(workers: int, rng: random.Random) -> dict[WorkerId, WorkerView]:
    """A quarter of them prefill."""
    return {(seen := worker(number, rng)).card.worker: seen for number in range(workers)}


def worker(number: int, rng: random.Random) -> WorkerView:
    role = Role.PREFILL if number % 4 == 0 else Role.DECODE
    card = WorkerCard(WorkerId(f"{role}-{number}"), Epoch(1), role, WorkerState.READY, "tcp://h:1", "k", FACTS)
    others = OthersLoad(20, rng.randrange(8000), 15, rng.randrange(60_000))
    load = WorkerLoad(30, 2, rng.randrange(10_000, 25_000), 30_000, others=others, step=MODEL)
    ahead, decoding = rng.randrange(12_000), rng.randrange(60)
    finishes = tuple(sorted(100.0 + rng.random() * 20 for _ in range(decoding)))
    books = Books(3, ahead, ahead**2 // 3, 99.9, ahead // 3, decoding, decoding * 2500, finishes)
    return WorkerView(card, load, ahead, decoding * 3000, decoding + 3, 4000, 65_536, 256, "", books)


def times_s(view: dict[WorkerId, WorkerView], rng: random.Random) -> list[float]:
    """Of each decision."""
    balancer, took = Balancer(Joint(Known(), rng)), []
    names = list(view)
    for number in range(DECISIONS):
        hits = {name: rng.randrange(4000) for name in rng.sample(names, len(names) // 3)}
        ask = Ask(RequestId(str(number)), 6000, 1000, True, now_s=100.0, hits=hits, expected_tokens=300.0, ttft_s=2.0, tpot_s=0.05)
        began_s = time.thread_time()
        decision = balancer.choose(ask, view)
        took.append(time.thread_time() - began_s)
        assert decision.chosen is not None
    return took


def live_times_s(workers: int, requests: int = REQUESTS) -> tuple[list[float], list[float]]:
    """Of each request that was given a plan or refused, once the cluster is loaded: the decision, and the keys of its prompt."""
    prefixes = Prefixes()
    prefixes.enter(WorkerId("any"), setups.BLOCK_TOKENS, b"benchmark")
    longest = [number % 4096 for number in range(131_072)]
    decided: list[float] = []
    hashed: list[float] = []
    decide = Placing.decide

    def timed(placing: Placing, entry: Entry, order: i.AskPlan) -> e.Planned | e.NoRoom | e.GivenUp:
        began_s = time.thread_time()
        event = decide(placing, entry, order)
        took_s = time.thread_time() - began_s
        if not isinstance(event, e.NoRoom) and not entry.timeline.attempts > 1:
            request = EngineCoreRequest(
                *("r", longest[: entry.timeline.prompt_tokens], None, SamplingParams(), None, 0.0, None, None, None)
            )
            began_s = time.thread_time()
            prefixes.keys(request)
            hashed.append(time.thread_time() - began_s)
            decided.append(took_s)
        return event

    run = setups.Run(setups.Setup("baton", 8, 512), "mooncake_conversation", requests, PER_WORKER * workers, Objective(3.0, 0.025))
    spec = setups.spec(run)
    scaled = [replace(pool, count=pool.count * workers // setups.GPUS) for pool in spec.pools]
    with mock.patch.object(Placing, "decide", timed):
        Cluster(replace(spec, pools=scaled), 1).replay(setups.trace(run.trace).at_rate(run.rate, run.requests))
    warm_up = len(decided) // 4
    return decided[warm_up:], hashed[warm_up:]


def main() -> None:
    """Prints a table."""
    print("the balancer alone\nworkers | p50 ms | p99 ms | target p99 ms")
    for workers, target_ms in TARGET_MS.items():
        rng = random.Random(7)
        quantiles: Sequence[float] = statistics.quantiles(times_s(cluster(workers, rng), rng), n=100)
        print(f"{workers:7} | {quantiles[49] * 1e3:6.2f} | {quantiles[98] * 1e3:6.2f} | {target_ms:g}", flush=True)
    gc.freeze()
    logging.disable(logging.CRITICAL)  # of requests that the clusters refuse
    print("\nall of it, under load\nworkers | decisions | p50 ms | p99 ms | without keys | target p99 ms")
    for workers in LOADED:
        decided, keys = live_times_s(workers)
        with_keys: Sequence[float] = statistics.quantiles(map(sum, zip(decided, keys, strict=True)), n=100)
        without: Sequence[float] = statistics.quantiles(decided, n=100)
        print(
            f"{workers:7} | {len(decided):9} | {with_keys[49] * 1e3:6.2f} | {with_keys[98] * 1e3:6.2f} "
            f"| {without[49] * 1e3:.2f} / {without[98] * 1e3:.2f} | {TARGET_MS[64]:g}"
        )


if __name__ == "__main__":
    main()
