"""The virtual side: all parts as one trace with pauses, so that routers remember of each what real ones remember."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.real_stack.comparison import Comparison
from simulation.cluster import Cluster
from simulation.goodput import Outcome, outcome
from simulation.record import Record
from simulation.traces import Trace

_PAUSE_S = 60.0
"""Virtual: longer than any answer takes, as a real part is over when its last answer is."""


def outcomes(comparison: Comparison, policy: str, seed: int) -> list[Outcome]:
    """One for each rate."""
    parts = comparison.parts
    records = Cluster(comparison.spec(policy), seed).replay(joined(parts))
    return [outcome(part, comparison.objective) for part in split(records, parts)[1:]]


def joined(parts: Sequence[Trace]) -> Trace:
    """One after the other."""
    requests, begins_s = [], 0.0
    for part in parts:
        requests += [replace(request, arrival_s=begins_s + request.arrival_s) for request in part.requests]
        begins_s = requests[-1].arrival_s + _PAUSE_S
    return replace(parts[0], requests=requests)


def split(records: Sequence[Record], parts: Sequence[Trace]) -> list[Sequence[Record]]:
    """The records of each part."""
    found, begin = [], 0
    for part in parts:
        found.append(records[begin : begin + len(part.requests)])
        begin += len(part.requests)
    return found
