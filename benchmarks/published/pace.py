"""How much slower or faster than the roofline an engine is, found on some rows for use on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from statistics import median

import msgspec

from benchmarks.published.deployment import Deployment
from benchmarks.published.load import Means
from benchmarks.published.rows import Row

_TRIED = (0.35, 0.5, 0.7, 1.0, 1.4)


class Pace(msgspec.Struct, frozen=True):
    """Steps take so many times what the roofline says, by role."""

    prefill: float = 1.0
    decode: float = 1.0

    def of(self, deployment: Deployment) -> Deployment:
        """The same at this pace."""
        return msgspec.structs.replace(deployment, prefill_pace=self.prefill, decode_pace=self.decode)


def find_pace(rows: Sequence[tuple[Row, Deployment]], measure: Callable[[Deployment], Means]) -> Pace:
    """First, of a few paces for prompts, the one with which times to the first token are nearest; then, at that, the one for answers by
    which times per token are off in the median. Raises ValueError without rows."""
    if not rows:
        raise ValueError("there are no rows to find a pace on")
    pace = min((Pace(prefill) for prefill in _TRIED), key=lambda tried: _off(rows, tried, measure))
    ratio = median(row.tpot_s / measure(pace.of(deployment)).tpot_s for row, deployment in rows)
    return Pace(pace.prefill, round(ratio, 2))


def _off(rows: Sequence[tuple[Row, Deployment]], pace: Pace, measure: Callable[[Deployment], Means]) -> float:
    """By what factor times to the first token are off, in the mean of its logarithm."""
    return sum(abs(log(measure(pace.of(deployment)).ttft_s / row.ttft_s)) for row, deployment in rows) / len(rows)
