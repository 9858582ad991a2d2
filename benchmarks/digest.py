"""A name for a version of what decides an outcome, so that results that are kept are never held against those of other code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_SIMULATED = ("core", "engine", "kv_transfer", "cluster", "prefill_workers", "decode_workers", "router", "simulation")
_SUFFIXES = (".py", ".yaml", ".json", ".csv")


@cache
def code(*besides: str) -> str:
    """Of all that is simulated, of the traces, and of the files and folders ``besides`` (from the repository's root)."""
    return digest(_ROOT, [*_SIMULATED, *besides])


def digest(root: Path, parts: Iterable[str]) -> str:
    """Of what is under ``root``: names and bytes of files and of whatever decides in folders; of the traces everywhere. The same in every
    process. Raises FileNotFoundError for what is not there."""
    files: set[Path] = set((root / "benchmarks" / "traces").glob("*.xz"))
    for part in parts:
        if (root / part).is_dir():
            files |= {path for path in (root / part).rglob("*") if path.suffix in _SUFFIXES}
        else:
            files.add(root / part)
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return found.hexdigest()[:12]
