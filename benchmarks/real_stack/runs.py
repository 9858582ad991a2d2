"""Both sides of every policy, kept in a folder: what was measured is not measured again, and what was disturbed is."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

from benchmarks import digest
from benchmarks.real_stack import real, virtual
from benchmarks.real_stack.comparison import Comparison
from simulation.goodput import Outcome

_OTHERS = 0.1
"""Of the machine's CPU time that others may take during a measurement."""
_LOOKS_S = 5.0
_ATTEMPTS = 3


class Found(msgspec.Struct, frozen=True):
    """One policy: by rate, and for the virtual side by seed first."""

    policy: str
    virtual: Sequence[Sequence[Outcome]]
    real: Sequence[real.Measured]

    @property
    def disturbed(self) -> bool:
        """Whether others used too much of the machine."""
        return any(measured.others_cpu > _OTHERS for measured in self.real)


def code() -> str:
    """Of all that both sides run: another name for every version."""
    ours = (f"benchmarks/real_stack/{name}.py" for name in ("comparison", "real", "runs", "virtual"))
    return digest.code("deploy", *ours, "benchmarks/peers/drive.py", "benchmarks/servers.py", "benchmarks/goodput/setups.py")


def key(comparison: Comparison, policy: str, seeds: Sequence[int]) -> str:
    """The same for the same policy of a comparison, in every process, of the same code."""
    return hashlib.sha256(msgspec.json.encode((comparison, policy, seeds, code()))).hexdigest()[:20]


def find(comparison: Comparison, policy: str, seeds: Sequence[int], model: Path, folder: Path, *, patient: bool) -> Found:
    """Known, or computed and measured. ``patient``: waits for a quiet machine, and measures again what was disturbed all the same."""
    file = folder / f"{key(comparison, policy, seeds)}.json"
    if file.exists():
        known = msgspec.json.decode(file.read_bytes(), type=Found)
        if not (patient and known.disturbed):
            return known
    by_seed = [virtual.outcomes(comparison, policy, seed) for seed in seeds]
    for attempt in range(1, _ATTEMPTS + 1):
        if patient:
            _wait_for_quiet()
        found = Found(policy, by_seed, real.measure(comparison, policy, model))
        if not found.disturbed or not patient:
            break
        say(f"{policy}: disturbed, attempt {attempt} of {_ATTEMPTS}")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.encode(found))
    return found


def _wait_for_quiet() -> None:
    told = False
    while psutil.cpu_percent(_LOOKS_S) > 100 * _OTHERS:
        if not told:
            say("waiting for the machine to be quiet")
            told = True


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
