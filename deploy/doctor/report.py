"""The doctor's lines, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import msgspec

from deploy.doctor.line import Line, Verdict


def text(lines: Sequence[Line]) -> str:
    """A line each, what to do under those that are not well, and a count."""
    widths = [max((len(part) for part in parts), default=0) for parts in zip(*((line.check, line.where) for line in lines), strict=True)]
    said = []
    for line in lines:
        verdict = line.verdict.upper() if line.verdict is Verdict.FAIL else str(line.verdict)
        said.append(f"{verdict:<4}  {line.check:<{widths[0]}}  {line.where:<{widths[1]}}  {line.found}".rstrip())
        if line.advice:
            said.append(f"{'':<6}{'':<{widths[0]}}  {'':<{widths[1]}}  -> {line.advice}")
    counts = Counter(line.verdict for line in lines)
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    return "\n".join([*said, "", f"{len(lines)} checks: {summary}"])


def as_json(lines: Sequence[Line]) -> str:
    """An object with ``well`` and ``lines``."""
    return json.dumps({"well": well(lines), "lines": [msgspec.to_builtins(line) for line in lines]}, indent=2)


def well(lines: Sequence[Line]) -> bool:
    """Whether nothing failed."""
    return all(line.verdict is not Verdict.FAIL for line in lines)
