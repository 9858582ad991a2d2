"""How long the balancer takes for one decision: ``python -m benchmarks.decision``.

A cluster in full swing: every worker has prompts ahead and requests decoding, a third of them hold part of the prompt in their
caches. What is timed is ``Balancer.choose``, candidates included, with the default policy.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence

from core.ids import Epoch, RequestId, WorkerId
from core.step_model import StepModel
from core.worker import EngineFacts, OthersLoad, Role, WorkerCard, WorkerLoad, WorkerState
from router.balancer.balancer import Balancer
from router.balancer.joint import Joint
from router.plan import Ask, Books, WorkerView

FACTS = EngineFacts(block_size_tokens=16, num_blocks=30_000, max_model_len=131_072, max_num_seqs=256, max_num_batched_tokens=8192)
MODEL = StepModel(0.008, 2.8e-5, 3e-10, 0.007, 2e-5, 1.2e-8)
TARGET_MS = {64: 1.0, 1000: 5.0}
DECISIONS = 2000


class Known:
    """Predictions without the work of making them."""

    kv_bytes_per_token = 131_072.0

    def step_model(self, seen: WorkerView) -> StepModel:
        return seen.load.step or MODEL

    def transfer_s(self, prefill: WorkerId, decode: WorkerId, transfer_bytes: float) -> float:
        return 0.001 + transfer_bytes / 2.5e10

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
        began_s = time.perf_counter()
        decision = balancer.choose(ask, view)
        took.append(time.perf_counter() - began_s)
        assert decision.chosen is not None
    return took


def main() -> None:
    """Prints a table."""
    print("workers | p50 ms | p99 ms | target p99 ms")
    for workers, target_ms in TARGET_MS.items():
        rng = random.Random(7)
        quantiles: Sequence[float] = statistics.quantiles(times_s(cluster(workers, rng), rng), n=100)
        print(f"{workers:7} | {quantiles[49] * 1e3:6.2f} | {quantiles[98] * 1e3:6.2f} | {target_ms:g}")


if __name__ == "__main__":
    main()
