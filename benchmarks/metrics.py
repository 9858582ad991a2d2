"""What counting costs, call by call, beside prometheus_client's own counters; and a scrape: ``python -m benchmarks.metrics``.

Each figure is the best mean of five runs, so that what else the machine does counts little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from cluster.lifecycle import WorkerRecord
from cluster.pool_tally import PoolTally
from core.ids import Epoch, RequestId, WorkerId
from core.metrics import bounds
from core.metrics.exposition import OneFamily, ReadingCollector, family_of
from core.metrics.tally import Reading
from core.metrics.words import Decided
from core.worker import Role
from router.plan import Ask, Decision, Plan, Scored
from router.service import WantedService
from router.tally import RouterTally
from router.timeline import Timeline

RUNS = 5
SERVICE = WantedService(ttft_s=1.0, tpot_s=0.1)
PREFILL, DECODE = ([WorkerId(f"{role}-{number:06x}") for number in range(64)] for role in Role)

Call = Callable[[], object]


def mean_us(call: Call, calls: int) -> float:
    """Microseconds of one call."""
    best = float("inf")
    for _ in range(RUNS):
        began_s = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, time.perf_counter() - began_s)
    return best / calls * 1e6


def ended(prefill: WorkerId, decode: WorkerId) -> Timeline:
    """A request that was served by two workers."""
    timeline = Timeline(RequestId("r"), "c", 1000.0, 50.0, 1000, 100)
    chosen = Scored(Plan(prefill, decode), 1.0, "")
    timeline.decided(Ask(RequestId("r"), 1000, 100, True), Decision(chosen, (), {}, ""))
    timeline.sent_s, timeline.queue_s, timeline.first_token_s, timeline.handed_off_s, timeline.decoding_s = 0.01, 0.02, 0.1, 0.1, 0.15
    timeline.finished_s, timeline.output_tokens, timeline.outcome = 2.0, 100, "finished"
    timeline.transfer_bytes, timeline.transfer_s, timeline.transferred_tokens, timeline.recomputed_tokens = 10**8, 0.02, 999, 1
    return timeline


def encoded(reading: Reading) -> bytes:
    """As the listener does it."""
    return generate_latest(OneFamily(family_of(reading)))


def main() -> None:
    """Prints the table."""
    tally = RouterTally(("default", "chat", "batch"), ("default", "acme"))
    meter, timeline = tally.arrived(SERVICE, 1000), ended(PREFILL[0], DECODE[0])
    for prefill, decode in product(PREFILL, DECODE):
        tally.handed_over(ended(prefill, decode))

    def token() -> None:
        meter.tokens.value += 1
        meter.gaps.observe(0.02)

    theirs = CollectorRegistry()
    tokens = Counter("tokens", "x", ["class"], registry=theirs).labels("default")
    gaps = Histogram("gaps", "x", ["class"], buckets=bounds.TOKEN_S, registry=theirs).labels("default")

    def token_by_client() -> None:
        tokens.inc()
        gaps.observe(0.02)

    pools, records = PoolTally(), [WorkerRecord(WorkerId(f"w{n}"), Role.DECODE, Epoch(1), "spec", 0.0) for n in range(1000)]
    router = ReadingCollector(tally.readings)
    controller = ReadingCollector(lambda: pools.readings(records, {}, 10))
    calls: dict[str, tuple[Call, int]] = {
        "a token, or a step's message with some": (token, 100_000),
        "the same by prometheus_client's classes": (token_by_client, 100_000),
        "a decision": (lambda: tally.decided(Decided.PLANNED, 0.001), 100_000),
        "a hand-over": (lambda: tally.handed_over(timeline), 20_000),
        "the end of a request": (lambda: tally.ended(timeline, SERVICE, None), 20_000),
        "a scrape of a router with 1,024 pairs of workers": (lambda: generate_latest(router), 3),
        "a scrape of the controller of 1,000 workers": (lambda: generate_latest(controller), 20),
    }
    print(f"{'what':52} {'us':>10}")
    for what, (call, number) in calls.items():
        print(f"{what:52} {mean_us(call, number):10.2f}")
    longest_us = max(mean_us(partial(encoded, reading), 3) for reading in tally.readings())
    print(f"{'the longest part of it: nobody else waits longer':52} {longest_us:10.2f}")


if __name__ == "__main__":
    main()
