"""The whole stack under Ray beside the virtual clock: same engines, same trace, same promises; writes docs/real-stack.md.

    python -m benchmarks.real_stack

Wants the machine for itself, waits until it is quiet, and measures again what was disturbed. Results are kept in --cache, so what was
stopped goes on where it was. A policy takes about slowdown * (requests / rate, over all rates and the warm-up) seconds, and one minute.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import psutil

from benchmarks.peers.model import tokenizer_only
from benchmarks.real_stack.comparison import Comparison
from benchmarks.real_stack.page import page
from benchmarks.real_stack.runs import find, say
from benchmarks.servers import ROOT
from router.balancer.registry import POLICIES
from simulation.goodput import Objective

_MODEL_LEN = 131_072
_POLICIES = ("baton", "least_outstanding_tokens", "dynamo_kv", "mooncake_ttft", "random")


def main() -> None:
    arguments = _arguments()
    comparison = Comparison(
        trace=arguments.trace,
        rates=tuple(arguments.rates),
        requests=arguments.requests,
        warm_up=arguments.warm_up,
        objective=Objective(arguments.ttft_s, arguments.tpot_s),
        slowdown=arguments.slowdown,
        longest_tokens=arguments.longest_tokens,
    )
    logging.disable(logging.WARNING)  # refused requests are counted, not told
    cache: Path = arguments.cache
    model = tokenizer_only(cache.absolute() / "model", _MODEL_LEN)
    command = " ".join(["python -m benchmarks.real_stack", *(word for word in sys.argv[1:] if word != "--now")])
    found = []
    for policy in arguments.policies:
        say(policy)
        found.append(find(comparison, policy, list(range(1, arguments.seeds + 1)), model, cache, patient=not arguments.now))
        arguments.output.write_text(page(comparison, found, command, psutil.cpu_count() or 1))
    say(f"{arguments.output} is written")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_stack", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trace", default="azure_code", choices=["azure_code", "mooncake_conversation"])
    parser.add_argument("--rates", type=float, nargs="+", default=[10.0, 20.0, 40.0], help="requests per second, in the trace's time")
    parser.add_argument("--requests", type=int, default=300, help="at each rate")
    parser.add_argument("--warm-up", type=int, default=150, help="requests before them")
    parser.add_argument("--policies", nargs="+", default=list(_POLICIES), choices=sorted(POLICIES))
    parser.add_argument("--ttft-s", type=float, default=0.5)
    parser.add_argument("--tpot-s", type=float, default=0.025)
    parser.add_argument("--longest-tokens", type=int, default=16_000, help="of a prompt")
    parser.add_argument("--slowdown", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=8, help="of the virtual side")
    parser.add_argument("--now", action="store_true", help="measures whatever else the machine does")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "real_stack")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "real-stack.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
