"""How long the router's queue takes to say who is next: ``python -m benchmarks.queue_order``.

Timed, in CPU seconds, is what happens to a queue of steady length for each request that is served: the look for the first, its
placing, the question whether a newcomer may wait, and the newcomer's entering. Two priorities; half of the requests are promised a
first token.
"""

from __future__ import annotations

import random
import statistics
import time

from core.ids import RequestId
from router.queue import QueueLimits, RequestQueue
from router.service import WantedService
from router.waiting import Rank, Takes, Waiting

SIZES = (512, 10_000)
TENANTS = (1, 100)
ROUNDS = 2000


def times_s(size: int, tenants: int, rng: random.Random) -> list[float]:
    """Of each round."""
    queue = RequestQueue(QueueLimits(max_requests=2 * size, max_tokens=10**12))
    services = [WantedService(f"t{n}", priority=n % 2, ttft_s=30.0 if n % 4 < 2 else None) for n in range(4 * tenants)]

    def newcomer(number: int, now: float) -> Waiting:
        service = services[rng.randrange(len(services))]
        return Waiting(RequestId(str(number)), Rank.NEW, rng.randrange(100, 8000), now, now + 60.0, service, Takes(0.5))

    for number in range(size):
        queue.enter(newcomer(number, number / size), number / size)
    took = []
    for number in range(size, size + ROUNDS):
        now = 1.0 + (number - size) * 0.01
        coming = newcomer(number, now)
        began = time.thread_time()
        first = next(queue.in_turn(now))
        queue.placed(first.request)
        queue.full(now, 1, coming.service)
        queue.enter(coming, now)
        took.append(time.thread_time() - began)
    return took


def main() -> None:
    """Prints a row per size."""
    rng = random.Random(0)
    print("waiting  tenants   p50 us   p99 us")
    for size in SIZES:
        for tenants in TENANTS:
            took = sorted(times_s(size, tenants, rng))
            print(f"{size:7}  {tenants:7}  {statistics.median(took) * 1e6:7.0f}  {took[len(took) * 99 // 100] * 1e6:7.0f}")


if __name__ == "__main__":
    main()
