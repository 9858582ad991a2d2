"""A real deployment beside its simulation: ``python -m benchmarks.validate_cluster --prefill 1 --decode 1`` (or 2 and 2).

Starts real vLLM on this CPU under Ray, measures it with probes and a calibration load, fits the model, and gives a load that was not
measured to both. Some four minutes. Wants the machine for itself: what else runs is in the measured times. docs/simulator.md
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from statistics import median

import psutil

from benchmarks.validate_cluster.errors import table
from benchmarks.validate_cluster.fitting import Overheads, Seen, kv_bytes_per_token, port, step_model
from benchmarks.validate_cluster.stack import Stack, running
from benchmarks.validate_cluster.virtual import replay, spec
from benchmarks.validate_cluster.workload import Blocks, open_loop, prompts_alone, together
from simulation.cluster import ClusterSpec

_BATCHES = ((1, 64), (2, 64), (4, 64), (8, 64), (2, 768), (4, 768))
"""Requests that decode side by side, and tokens of each prompt."""
_BUSY_PERCENT = 80.0
"""Of all cores: beyond, processes wait for them."""


def main() -> None:
    arguments = _arguments()
    rng, blocks = random.Random(arguments.seed), Blocks()
    name = f"{arguments.prefill}P{arguments.decode}D"
    _say(f"starting {name} with real vLLM")
    with running(arguments.prefill, arguments.decode) as stack:
        _say("warming up")
        stack.ask(open_loop(blocks, rng, 15, 1.0))
        _say("measuring with probes")
        cluster = _fitted(stack, blocks, arguments.prefill, arguments.decode)
        print(f"{name}: {cluster.step}\n{cluster.port}")
        calibration = open_loop(blocks, rng, arguments.calibration, arguments.rate)
        _say(f"calibration load: {arguments.calibration} requests, {arguments.rate:g} per second")
        overheads = Overheads.between(stack.ask(calibration), replay(cluster, calibration, arguments.seed))
        print(f"overheads in the median: TTFT {median(overheads.ttft_s) * 1e3:+.1f} ms, TPOT times {median(overheads.tpot_ratio):.2f}")
        held_back = open_loop(blocks, rng, arguments.requests, arguments.rate)
        _say(f"held back: {arguments.requests} requests")
        psutil.cpu_percent()
        measured = stack.ask(held_back)
        busy, load = psutil.cpu_percent(), os.getloadavg()[0]
    simulated = replay(cluster, held_back, arguments.seed)
    print(f"\n{name}, {arguments.requests} requests held back, {arguments.rate:g} per second")
    print(f"CPU busy {busy:.0f} % of {psutil.cpu_count()} cores while they were served, load average {load:.1f}\n")
    print(table(measured, overheads.fixed(simulated), overheads.drawn(simulated, rng)))
    if busy > _BUSY_PERCENT:
        print("\nThe machine was the bottleneck: this tells more of it than of the simulation. Ask for less (--rate), or when it is idle.")


def _fitted(stack: Stack, blocks: Blocks, prefill: int, decode: int) -> ClusterSpec:
    alone = stack.seen(prompts_alone(blocks))
    batches: list[list[Seen]] = [stack.seen(together(blocks, batch * decode, tokens)) for batch, tokens in _BATCHES]
    model = step_model(alone, [_share(seen, decode) for seen in batches])
    return spec(prefill, decode, model, port(alone, model), stack.num_blocks, kv_bytes_per_token(alone))


def _share(seen: list[Seen], decode: int) -> list[Seen]:
    """As many as one of the decode workers had: the router spreads those that come together evenly."""
    return seen[:: max(1, decode)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validate_cluster", description=__doc__)
    parser.add_argument("--prefill", type=_positive, default=1)
    parser.add_argument("--decode", type=_positive, default=1)
    parser.add_argument("--rate", type=float, default=1.0, help="requests per second: low, so that two cores are enough for all processes")
    parser.add_argument("--calibration", type=_positive, default=60, help="requests")
    parser.add_argument("--requests", type=_positive, default=100, help="held back")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.rate <= 0:
        parser.error("--rate must be above 0")
    return arguments


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
