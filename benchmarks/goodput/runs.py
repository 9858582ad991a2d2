"""Runs simulations side by side, and remembers what came out."""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec

from benchmarks.goodput.setups import Run, spec, trace
from simulation.cluster import Cluster
from simulation.goodput import Outcome, outcome


class Runs:
    """``results`` are kept in a folder, one file per run: a sweep that was stopped goes on where it was, and begins anew where
    code has changed since; ``fresh`` ignores what is there."""

    def __init__(self, folder: Path, processes: int, *, fresh: bool = False) -> None:
        """With 0 processes, in this one."""
        self._folder = folder
        self._fresh = fresh
        self._known: dict[Run, Outcome] = {}
        self._pool = ProcessPoolExecutor(processes, initializer=_prepare) if processes else None
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, runs: Iterable[Run]) -> dict[Run, Outcome]:
        """The outcome of each, computed where it is not known."""
        wanted = list(dict.fromkeys(runs))
        missing = [run for run in wanted if self._look_up(run) is None]
        results = map(simulate, missing) if self._pool is None else self._pool.map(simulate, missing)
        for run, (found, seconds) in zip(missing, results, strict=True):
            self._known[run] = found
            self._file(run).write_bytes(msgspec.json.encode(found))
            say(f"{run.trace} {run.setup.name} at {run.rate:g}/s: {found.share:.1%} good ({seconds:.0f} s)")
        return {run: self._known[run] for run in wanted}

    def close(self) -> None:
        """Ends the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _look_up(self, run: Run) -> Outcome | None:
        if run not in self._known and not self._fresh and self._file(run).exists():
            self._known[run] = msgspec.json.decode(self._file(run).read_bytes(), type=Outcome)
        return self._known.get(run)

    def _file(self, run: Run) -> Path:
        return self._folder / f"{run.key}.json"


def simulate(run: Run) -> tuple[Outcome, float]:
    """One run, and the seconds of CPU it took."""
    began_s = time.process_time()
    records = Cluster(spec(run), run.seed).replay(trace(run.trace).at_rate(run.rate, run.requests))
    found = outcome(records, run.objective)
    if not gc.isenabled():
        gc.collect()
    return found, time.process_time() - began_s


def _prepare() -> None:
    """A process that does nothing but simulate."""
    logging.disable(logging.CRITICAL)  # refused requests are counted, not told
    gc.freeze()
    gc.disable()  # next to nothing in a run is circular, and looking for it takes a third of the time


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
