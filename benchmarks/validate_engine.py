"""Holds the simulated engine against real ones: ``python -m benchmarks.validate_engine --logs DIR`` or ``--real``.

``--logs``: a request log of vLLM on a GPU, replayed; the step model is calibrated on its first part only. ``--real``: a vLLM engine
started here, measured, and then given a workload that the simulated engine is given too. docs/simulator.md has the figures.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.sim_calibrate import calibrate
from benchmarks.sim_replay import Replay, Timed
from benchmarks.vllm_log import read_log
from core.step_model import StepModel

LOGS = Path(__file__).parent / "data" / "rtxpro6000_llama-3.1-8b"
_SHARES = (0.50, 0.90, 0.99)


def validate_logs(path: Path, until_s: float, depth: int) -> None:
    """Prints how far the replay is off, on what it was calibrated with and on what it had not seen."""
    log = read_log(path)
    model = calibrate(log.config, depth, log.arrivals, log.timed, until_s, log.floor)
    timed, steps = Replay(log.config, model, depth).run(log.arrivals)
    print(f"{len(log.timed)} requests, {len(steps)} steps, {log.config.num_blocks} blocks, scheduling depth {depth}")
    print_model(model)
    seen = [index for index, real in enumerate(log.timed) if real.first_s <= until_s]
    unseen = [index for index, real in enumerate(log.timed) if real.first_s > until_s]
    for name, which in ((f"in sample (first token within {until_s:g} s)", seen), ("held back", unseen), ("all", [*seen, *unseen])):
        if which:
            print_errors(f"{name}, {len(which)} requests", [log.timed[i] for i in which], [timed[i] for i in which])


def print_errors(title: str, real: Sequence[Timed], simulated: Sequence[Timed]) -> None:
    """A table with both distributions and the error of the simulated one."""
    print(f"\n{title}\n\n| | mean | p50 | p90 | p99 |\n|---|---|---|---|---|")
    two = ([timed for timed in side if timed.output_tokens > 1] for side in (real, simulated))
    real_two, simulated_two = two
    for name, left, right, of in (
        ("TTFT", real, simulated, lambda timed: timed.ttft_s),
        ("TPOT", real_two, simulated_two, lambda timed: timed.tpot_s),
    ):
        pairs = list(zip(_figures(left, of), _figures(right, of), strict=True))
        print(f"| {name} real, ms | " + " | ".join(f"{value * 1e3:.1f}" for value, _ in pairs) + " |")
        print(f"| {name} simulated, ms | " + " | ".join(f"{value * 1e3:.1f}" for _, value in pairs) + " |")
        print("| error | " + " | ".join(f"**{(guess / value - 1) * 100:+.1f} %**" for value, guess in pairs) + " |")


def print_model(model: StepModel) -> None:
    print(", ".join(f"{name} {getattr(model, name):.3e}" for name in model.__struct_fields__))


def _figures(timed: Sequence[Timed], of: Callable[[Timed], float]) -> list[float]:
    """Mean and percentiles (nearest rank)."""
    values = sorted(of(one) for one in timed)
    return [fmean(values), *(values[round(share * (len(values) - 1))] for share in _SHARES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, nargs="?", const=LOGS, help="directory of a log (default: the one that is here)")
    parser.add_argument("--until", type=float, default=22.0, help="seconds of the log to calibrate with (default: a third)")
    parser.add_argument("--depth", type=int, default=2, choices=(1, 2), help="2: asynchronous scheduling, as the logged engine had")
    parser.add_argument("--real", action="store_true", help="start a vLLM engine here; takes some minutes")
    arguments = parser.parse_args()
    if arguments.real:
        from benchmarks.validate_real import validate_real

        asyncio.run(validate_real())
    else:
        validate_logs(arguments.logs or LOGS, arguments.until, arguments.depth)


if __name__ == "__main__":
    main()
