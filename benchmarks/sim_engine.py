"""How fast the simulated engine lives: requests like the Mooncake conversation trace's on one engine, on a virtual clock.

``python -m benchmarks.sim_engine`` prints requests per second of wall clock, with leaps and step by step.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator

from core.ids import LegId
from engine.sim_blocks import BlockHash
from engine.sim_config import SimulatedEngineConfig
from engine.sim_content import LengthPrompt
from engine.sim_request import SimRequest
from engine.sim_timing import PolynomialTime
from engine.sim_virtual import VirtualEngine

BLOCK = 512
MEAN_PROMPT, MEAN_OUTPUT = 12_000, 343
TIMING = PolynomialTime(
    prefill_base_s=0.006, prefill_token_s=2.2e-5, prefill_square_s=3e-10, decode_base_s=0.006, decode_request_s=2e-5, decode_context_s=2e-8
)
CONFIG = SimulatedEngineConfig(
    block_size_tokens=BLOCK,
    num_blocks=1_800,
    max_model_len=131_072,
    max_num_seqs=256,
    max_num_batched_tokens=8_192,
    timing=TIMING,
)


def requests(count: int, rate: float, seed: int) -> Iterator[tuple[float, SimRequest]]:
    """Poisson arrivals; every fifth prompt continues an earlier one, and all share their first block."""
    chance = random.Random(seed)
    now, made = 0.0, 1
    histories: list[tuple[BlockHash, ...]] = [(BlockHash(0),)]
    for number in range(count):
        now += chance.expovariate(rate)
        tokens = max(1, min(100_000, int(chance.expovariate(1 / MEAN_PROMPT))))
        history = histories[-chance.randint(1, min(50, len(histories)))] if chance.random() < 0.2 else histories[0]
        kept = history[: tokens // BLOCK]
        fresh = tuple(BlockHash(made + index) for index in range(tokens // BLOCK - len(kept)))
        made += len(fresh)
        histories.append(kept + fresh)
        output = max(1, min(2_000, int(chance.expovariate(1 / MEAN_OUTPUT))))
        yield now, SimRequest(LegId(str(number)), LengthPrompt(tokens, kept + fresh), output)


def live(count: int, rate: float, seed: int, *, leaps: bool) -> tuple[float, float, float, float]:
    """Seconds of wall clock, of one core, of virtual clock; requests that decode at once in the mean."""
    engine = VirtualEngine(CONFIG, leaps=leaps)
    plan = list(requests(count, rate, seed))
    ended, last_s, gaps_s = 0, 0.0, 0.0
    began_s, core_began_s = time.perf_counter(), time.process_time()
    for at_s, request in [*plan, (float("inf"), None)]:
        while (event_s := engine.next_event_s) < at_s:
            for told in engine.advance(event_s):
                for emitted in told.emitted:
                    if emitted.timeline is not None:
                        ended += 1
                        gaps_s += emitted.timeline.last_token_s - emitted.timeline.first_token_s
                        last_s = told.at_s
        if request is not None:
            engine.add(request, at_s)
    wall_s, core_s = time.perf_counter() - began_s, time.process_time() - core_began_s
    assert ended == count
    return wall_s, core_s, last_s, gaps_s / last_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--step-by-step", action="store_true", help="without leaps as well (slow)")
    wanted = parser.parse_args()
    print("leaps  offered/s  decoding at once  virtual s  requests per wall second  per core second")
    for leaps in [True, *([False] if wanted.step_by_step else [])]:
        for rate in (0.5, 1.5, 2.5, 4.0):
            wall_s, core_s, virtual_s, decoding = live(wanted.requests, rate, wanted.seed, leaps=leaps)
            fast = f"{wanted.requests / wall_s:24.0f}  {wanted.requests / core_s:15.0f}"
            print(f"{leaps!s:5}  {rate:9.1f}  {decoding:16.1f}  {virtual_s:10.0f}  {fast}")


if __name__ == "__main__":
    main()
