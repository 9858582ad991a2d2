"""How predictions compare with what happened, as routers tell it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.metrics.of_requests import PREDICTION_BIAS, PREDICTION_ERROR, PREDICTION_MEDIAN
from core.metrics.tally import Levels, Reading, Spreads

ERROR_BUCKETS = PREDICTION_ERROR.bounds


@dataclass(frozen=True, slots=True)
class PredictionNumbers:
    """Of one quantity, for workers of one role."""

    quantity: str
    role: str
    """Empty where it makes no difference."""
    counts: Sequence[int]
    """Predictions by size of their relative error: up to each of ``ERROR_BUCKETS``, and beyond the last."""
    sum: float
    """Of those sizes."""
    bias: float
    """Median relative error of the newest; above 0: too much was predicted."""
    typical: float
    """Median size of the newest ones' errors."""


def prediction_readings(checked: Iterable[PredictionNumbers]) -> list[Reading]:
    """What Prometheus is told of them."""
    sizes, typical, bias = Spreads(PREDICTION_ERROR), Levels(PREDICTION_MEDIAN), Levels(PREDICTION_BIAS)
    for numbers in checked:
        of = (numbers.quantity, numbers.role)
        spread = sizes.cell(*of)
        spread.counts, spread.sum = list(numbers.counts), numbers.sum
        typical.set(numbers.typical, *of)
        bias.set(numbers.bias, *of)
    return [sizes, typical, bias]
