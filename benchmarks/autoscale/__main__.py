"""``make autoscale``: Baton's scaler and three others on traffic that no fixed number of workers suits; writes docs/autoscaling.md."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.autoscale import page
from benchmarks.autoscale.fleet import Setup
from benchmarks.autoscale.runs import Run, say, simulate_all
from benchmarks.autoscale.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
SETUPS = (
    *(Setup("static", (), prefill, decode) for prefill, decode in ((2, 2), (3, 2), (4, 2), (4, 3), (5, 3))),
    *(Setup("proportional", settings) for settings in ((2.0, 12.0), (4.0, 24.0))),
    Setup("dynamo"),
    Setup("dynamo-throughput"),
    *(Setup("baton", (utilisation,)) for utilisation in (0.75, 0.9)),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscale", description=__doc__)
    parser.add_argument("--only", choices=SCENARIOS, help="one scenario only")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "autoscaling.md")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(SCENARIOS)
    runs = [Run(name, setup, arguments.seed) for name in names for setup in SETUPS]
    page.write(arguments.output, simulate_all(runs, arguments.processes), arguments.seed)
    say(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
