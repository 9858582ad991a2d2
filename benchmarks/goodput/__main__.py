"""``make goodput``: every policy, three set-ups of the same sixteen GPUs, two traces, on a virtual clock; writes docs/goodput.md."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.goodput import page
from benchmarks.goodput.runs import Runs, say
from benchmarks.goodput.sweep import Sweep, Workload, quick
from simulation.goodput import Objective

ROOT = Path(__file__).parents[2]
_CHAT = (8, 16, 22, 28, 34, 40, 48, 56)
_CODE = (20, 35, 50, 65, 80, 90, 100, 112, 125, 160, 200)
_AT_12 = (8, 10, 12, 13)
WORKLOADS = (
    Workload("mooncake_conversation", Objective(3.0, 0.025), _CHAT, 2000, ours=((0, 512), (0, 1024), (8, 512))),
    Workload("azure_code", Objective(0.5, 0.025), _CODE, 2500, _AT_12, ours=((0, 512), (8, 512), (12, 512), (12, 2048))),
)
"""Promises as tight as they can be kept with room to choose. Azure's prompts are long beside its answers: more workers prefill."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.goodput", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer requests, rates and ratios; minutes instead of an hour")
    parser.add_argument("--only", type=int, choices=range(len(WORKLOADS)), help="one workload only")
    parser.add_argument("--fresh", action="store_true", help="compute again what is known of earlier runs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "goodput.md")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "goodput", help="where outcomes of runs are kept")
    arguments = parser.parse_args()
    chosen = WORKLOADS if arguments.only is None else WORKLOADS[arguments.only : arguments.only + 1]
    runs = Runs(arguments.cache, arguments.processes, fresh=arguments.fresh)
    try:
        found = []
        for work in chosen:
            say(work.name)
            made = quick(work) if arguments.quick else work
            found.append((made, Sweep(made, runs, arguments.seed).everything()))
            page.write(arguments.output, found, arguments.seed)
            say(f"written, so far: {arguments.output}")
    finally:
        runs.close()


if __name__ == "__main__":
    main()
