"""``baton simulate CONFIG --trace FILE``: what would this configuration do with that traffic? On a virtual clock, without a GPU."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.plan.quantities import positive, seconds

if TYPE_CHECKING:
    from core.config import BatonConfig
    from simulation.course import Moment
    from simulation.report import Report
    from simulation.run import Simulation

EXAMPLES = """\
examples:
  baton simulate my.yaml --trace conversation.jsonl                 an hour of traffic, in seconds
  baton simulate my.yaml --trace conversation.jsonl --scale-rate 3  three times as much of it
  baton simulate my.yaml --synthetic "rate=20 isl=1000 osl=200 seconds=600"
  baton simulate my.yaml --synthetic "rate=20 isl=1000 osl=200 seconds=600 hit=0.3 burst=5 burst_at=200 burst_for=60"
  baton simulate my.yaml --trace t.csv --prefill 6 --decode 2       with other numbers of workers
  baton simulate my.yaml --trace t.csv --faults faults.yaml --html report.html --json report.json

Nothing is started: the router, balancer, queue and autoscaler of production run on a virtual clock, around simulated engines whose
steps take as long as `engine.step_times` says. docs/simulator.md has traces' and faults' formats, and how true it is.
"""
_TELL_EVERY_S = 2.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "simulate",
        help="what a config file would do with a trace: goodput, latencies, GPU-hours, in seconds and without a GPU",
        description="Replays a trace on a simulated cluster with the configuration of FILE. Starts nothing.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="CONFIG", help="the YAML file, as for `baton up`")
    traffic = parser.add_mutually_exclusive_group(required=True)
    traffic.add_argument("--trace", type=Path, metavar="FILE", help="recorded requests; may be packed by xz or gzip")
    traffic.add_argument("--synthetic", metavar="WORDS", help="made-up ones: rate=, isl=, osl=, seconds=, perhaps hit=, burst= and more")
    parser.add_argument("--format", choices=("mooncake", "azure", "csv", "jsonl"), help="of the trace; otherwise guessed")
    parser.add_argument("--scale-rate", type=positive, default=1.0, metavar="X", help="so many times as many requests per second")
    parser.add_argument("--seconds", type=seconds, metavar="S", help="so long; a shorter trace is repeated")
    parser.add_argument("--model", metavar="NAME", help="of several that the file serves: the one to simulate, by itself")
    parser.add_argument("--prefill", type=int, metavar="N", help="prefill workers, in place of the file's `count`")
    parser.add_argument("--decode", type=int, metavar="N", help="decode workers, likewise")
    parser.add_argument("--faults", type=Path, metavar="FILE", help="what goes wrong and when, in YAML")
    parser.add_argument("--no-cost", action="store_true", help="with --faults: do not run once more without them, to tell what they cost")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there, for programs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report there, as a page with plots")
    parser.add_argument("--svg", type=Path, metavar="DIR", help="write the plots there, each as a file")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same result")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from core.errors import ConfigError

    print("loading the router and the traffic", file=sys.stderr, flush=True)  # vLLM's front half takes seconds to import
    try:
        _look_at_paths(arguments)
        with _nothing_told():
            simulation = _simulation(arguments)
        return _report(simulation, arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise  # `baton simulate ... | head`: deploy/cli.py has it
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def _look_at_paths(arguments: argparse.Namespace) -> None:
    """Before the work. Raises ConfigError where what comes out could not be written."""
    from core.errors import ConfigError

    files = [file for file in (arguments.json, arguments.html) if file is not None]
    folders = [file.parent for file in files] + [arguments.svg] * bool(arguments.svg)
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise ConfigError(f"there is no folder {missing[0]}; make it first")
    if taken := [file for file in files if file.is_dir()]:
        raise ConfigError(f"{taken[0]} is a folder; name a file in it")
    if locked := [path for path in (*files, *folders) if path.exists() and not os.access(path, os.W_OK)]:
        raise ConfigError(f"{locked[0]} cannot be written")
    if len(files) == 2 and files[0].resolve() == files[1].resolve():
        raise ConfigError(f"{files[0]} would be written twice; --json and --html need a file each")


def _simulation(arguments: argparse.Namespace) -> Simulation:
    import random

    from core.errors import ConfigError
    from core.worker import Role
    from deploy.check_config import read
    from deploy.synthetic_words import synthetic_of
    from simulation.faults import read_faults
    from simulation.trace_files import read_trace

    served = read(arguments.file).served
    try:
        config = _counted(served.only(arguments.model).models[0], arguments)
    except ConfigError as error:
        raise ConfigError(error.rule, error.where or str(arguments.file)) from None
    rng = random.Random(arguments.seed)
    if arguments.trace is not None:
        trace = read_trace(arguments.trace, rng, arguments.format)
    else:
        trace = synthetic_of(arguments.synthetic).trace(rng)
    workers = {role: config.pool(role).count for role in Role}
    faults = read_faults(arguments.faults, workers, config.router.replicas) if arguments.faults else []
    from simulation.run import Simulation  # seconds; what is written wrongly is told before

    return Simulation(config=config, trace=trace, seconds=arguments.seconds, scale=arguments.scale_rate, faults=faults, seed=arguments.seed)


def _counted(config: BatonConfig, arguments: argparse.Namespace) -> BatonConfig:
    """With the numbers of workers of the command line. Raises ConfigError where they do not suit the rest of the file."""
    from pydantic import ValidationError

    from core.config import BatonConfig
    from core.errors import ConfigError
    from deploy.check_config import said

    plain = config.model_dump(mode="json", exclude_unset=True)
    for role in ("prefill", "decode"):
        if (count := getattr(arguments, role)) is not None:
            plain[role] = {**plain.get(role, {}), "count": count}
    try:
        return BatonConfig.model_validate(plain)
    except ValidationError as error:
        detail = error.errors()[0]
        pool = next((str(step) for step in detail["loc"][:1] if step in {"prefill", "decode"}), "prefill and --decode")
        raise ConfigError(said(detail), f"--{pool}") from None


def _report(simulation: Simulation, arguments: argparse.Namespace) -> int:
    from simulation.report_rows import text

    teller, began_s = _Teller(), time.monotonic()
    with _nothing_told(), _nothing_collected():
        report = simulation.run(teller.tell, with_cost=not arguments.no_cost)
    took_s = time.monotonic() - began_s
    try:
        _write(report, arguments)  # first: whoever reads the text may stop reading
    finally:
        print(text(report), flush=True)
    print(f"\nsimulated in {took_s:.1f} s: {report.seconds * teller.runs / took_s:,.0f} times as fast as the clock", file=sys.stderr)
    return 0


def _write(report: Report, arguments: argparse.Namespace) -> None:
    import msgspec

    from simulation.report_page import page, plots_of

    if arguments.json is not None:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if arguments.html is not None:
        arguments.html.write_text(page(report), encoding="utf-8")
    if arguments.svg is not None:
        for name, plot in plots_of(report).items():
            (arguments.svg / f"{name}.svg").write_text(plot.svg(), encoding="utf-8")


@contextlib.contextmanager
def _nothing_told() -> Iterator[None]:
    """No log: refused requests are counted."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """Next to nothing in a run is circular, and looking for it takes a third of the time."""
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()  # or libraries that look for leaks when the process ends find some


class _Teller:
    """Progress on stderr: simulated time, requests, speed. A line that is written over on a terminal."""

    def __init__(self) -> None:
        self.runs = 0
        self._told_s = self._began_s = time.monotonic()

    def tell(self, moment: Moment, offered: int) -> None:
        now_s = time.monotonic()
        if moment.at_s == 0.0:
            self.runs, self._began_s = self.runs + 1, now_s
        if now_s - self._told_s < _TELL_EVERY_S:
            return
        self._told_s = now_s
        speed = moment.at_s / max(now_s - self._began_s, 1e-9)
        again = ", once more without faults" if self.runs > 1 else ""
        line = f"{moment.at_s:,.0f} s simulated, {moment.offered:,} of {offered:,} requests, {speed:.1f} times as fast as the clock{again}"
        print(f"\r\x1b[K{line}" if sys.stderr.isatty() else line, end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)
