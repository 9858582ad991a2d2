"""``make autoscale``: Baton's scaler and three others on traffic that no fixed number of workers suits; writes docs/autoscaling.md."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.autoscale import page
from benchmarks.autoscale.runs import Runs, say
from benchmarks.autoscale.study import SCENES, everything, quick

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one setting each, and only a quarter of an hour of traffic: minutes")
    parser.add_argument("--only", choices=[scene.name for scene in SCENES], help="one scene only")
    parser.add_argument("--fresh", action="store_true", help="compute again what is known of earlier runs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="default: docs/autoscaling.md; with --quick or --only, a page in the cache")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "autoscale", help="where outcomes of runs are kept")
    arguments = parser.parse_args()
    chosen = [scene for scene in SCENES if arguments.only in (None, scene.name)]
    in_part = arguments.quick or arguments.only is not None
    output = arguments.output or (arguments.cache / "page.md" if in_part else ROOT / "docs" / "autoscaling.md")
    runs = Runs(arguments.cache, arguments.processes, fresh=arguments.fresh)
    try:
        told = [everything(quick(scene) if arguments.quick else scene, runs, arguments.seed) for scene in chosen]
        page.write(output, told, arguments.seed)
        say(f"written: {output}")
    finally:
        runs.close()


if __name__ == "__main__":
    main()
