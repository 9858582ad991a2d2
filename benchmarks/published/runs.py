"""Simulations and their results, kept in a file: what is known of this code is not simulated again, and what was stopped goes on
where it was."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import digest
from benchmarks.published.deployment import Deployment
from benchmarks.published.load import Means, simulate


def code() -> str:
    """Of all that decides a result: another name for every version."""
    return digest.code(*(f"benchmarks/published/{name}.py" for name in ("deployment", "load", "pace")))


class Result(msgspec.Struct, frozen=True):
    """One line of the file."""

    key: str
    means: Means


class Runs:
    """Results by deployment. ``path`` None: they are not kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_bytes().splitlines() if path is not None and path.exists() else []
        self._known = {result.key: result.means for result in (msgspec.json.decode(line, type=Result) for line in lines)}

    def of(self, deployment: Deployment) -> Means:
        """Known, or simulated now: from less than a second to some minutes."""
        key = hashlib.sha256(msgspec.json.encode((deployment, code()))).hexdigest()[:20]
        if key not in self._known:
            self._known[key] = simulate(deployment)
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("ab") as file:
                    file.write(msgspec.json.encode(Result(key, self._known[key])) + b"\n")
        return self._known[key]

    def of_all(self, deployments: Sequence[Deployment]) -> list[Means]:
        """In their order, with progress."""
        found = []
        for number, deployment in enumerate(deployments, 1):
            say(f"{number} of {len(deployments)}: {deployment.clients} clients, {deployment.prefill} and {deployment.decode}")
            found.append(self.of(deployment))
        return found


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
