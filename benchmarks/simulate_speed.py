"""How fast ``baton simulate`` is: ``python -m benchmarks.simulate_speed``. CPU seconds of one process, so that others on the machine count
less; ``--seconds`` for less than the hour that the aim is stated for."""

from __future__ import annotations

import argparse
import cProfile
import gc
import logging
import pstats
import random
import resource
import sys
import time
from pathlib import Path

import msgspec

from core.config import BatonConfig
from deploy.synthetic_words import synthetic_of
from simulation.course import Moment
from simulation.run import Simulation
from simulation.trace_files import read_trace

_TRACE = Path(__file__).parent / "traces" / "mooncake_conversation.jsonl.xz"
_HOUR_S = 3600.0


class Case(msgspec.Struct, frozen=True):
    """A cluster of 1,000 GPUs and what it is asked."""

    what: str
    step_times: str
    gpus: int
    """Of one worker."""
    prefill: int
    decode: int
    scale: float | None = None
    """Of the Mooncake conversation trace; None: synthetic."""
    synthetic: str = ""

    def simulation(self, seconds: float) -> Simulation:
        pools = {
            role: {"count": count, "num_gpus": self.gpus, "tensor_parallel_size": self.gpus}
            for role, count in (("prefill", self.prefill), ("decode", self.decode))
        }
        config = BatonConfig.model_validate(
            {"model": "model", "engine": {"step_times": self.step_times}, "objectives": {"ttft_s": 3.0, "tpot_s": 0.05}, **pools}
        )
        rng = random.Random(1)
        if self.scale is None:
            return Simulation(config=config, trace=synthetic_of(f"{self.synthetic} seconds={seconds}").trace(rng))
        return Simulation(config=config, trace=read_trace(_TRACE, rng), seconds=seconds, scale=self.scale)


CASES = {
    "hour": Case("the Mooncake conversation trace at its own rate, 1,000 workers", "h100-llama-3.1-8b-tp1", 1, 500, 500, 1.0),
    "70b": Case("the same 20 times as fast, 125 workers of 8 GPUs", "h200-llama-3.1-70b-tp8", 8, 75, 50, 20.0),
    "8b": Case("1,000 busy workers", "h100-llama-3.1-8b-tp1", 1, 500, 500, None, "rate=1000 isl=4000 osl=300 hit=0.3"),
}


def measure(case: Case, seconds: float, profile: int) -> str:
    """One line, and with ``profile`` so many of a profile's on stderr."""
    simulation, last_s = case.simulation(seconds), time.monotonic()

    def tell(moment: Moment, offered: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > 5.0:
            last_s = time.monotonic()
            cpu_s = time.process_time() - began_s
            print(f"  {moment.at_s:.0f} s, {moment.offered:,} of {offered:,} requests, {cpu_s:.0f} s of CPU", file=sys.stderr, flush=True)

    profiler = cProfile.Profile(time.process_time) if profile else None
    began_s = time.process_time()
    report = profiler.runcall(simulation.run, tell) if profiler is not None else simulation.run(tell)
    cpu_s = time.process_time() - began_s
    if profiler is not None:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(profile)
    busy = ", ".join(f"{role} {part:.0%}" for role, part in report.busy.items())
    memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return (
        f"| {case.what} | {report.seconds:,.0f} s | {report.offered:,} | {report.offered / report.seconds:.1f} | {busy} "
        f"| {report.attainment:.1%} | **{cpu_s:.0f} s** | {cpu_s / report.offered * 1000:.2f} ms | {report.seconds / cpu_s:.1f} "
        f"| {memory_gb:.1f} GB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate_speed", description=__doc__)
    parser.add_argument("--only", choices=list(CASES), action="append", help="may be given more than once")
    parser.add_argument("--seconds", type=float, default=_HOUR_S, help="of simulated time")
    parser.add_argument("--profile", type=int, default=0, metavar="LINES", help="with the profile of each; it doubles the time")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    gc.freeze()
    gc.disable()  # as ``baton simulate`` does
    print("| case | simulated | requests | per s | in steps | attained | CPU | per request | times the clock | memory so far |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in arguments.only or CASES:
        print(measure(CASES[name], arguments.seconds, arguments.profile), flush=True)
        gc.collect()
    gc.enable()
    gc.unfreeze()  # or libraries that look for leaks when the process ends find some


if __name__ == "__main__":
    main()
