"""The normal equations of step times: what the steps of a worker, weighted and the older the less, say of six coefficients. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cluster.least_squares import nonnegative
from core.step_model import StepWork

Matrix = NDArray[np.float64]

_PRIOR_WEIGHT = 0.05
"""Steps, made of nothing but one term, that the prior of that term counts for."""
_DOUBT = 0.002 * np.array([4.0, 1.0, 100.0, 1.0, 10.0, 10.0])
"""Without a prior, what steps do not tell apart goes to the term with the least doubt: of equal prompts one cannot see whether
time grows with their square, and a guess that it does would be far off for a long one."""

_PREFILL, _DECODE, _MIXED = range(3)
_TERMS = 7
_MIXED_BASE = 6
"""Beside the model's six: the base of steps that do both. It is the larger of the two bases, so both are tried for it."""


@dataclass(frozen=True, slots=True)
class StepEquations:
    """Sums over steps, per kind: with prompts, with decodes, with both.

    Each kind forgets by its own number only: hours of decoding do not wash out what is known of prefill.
    """

    squares: Matrix = field(default_factory=lambda: np.zeros((3, _TERMS, _TERMS)))
    products: Matrix = field(default_factory=lambda: np.zeros((3, _TERMS)))
    counts: Matrix = field(default_factory=lambda: np.zeros(3))

    def plus(self, features: Matrix, seconds: Matrix, weights: Matrix, memory: float) -> StepEquations:
        """With these steps, one per row. After ``memory`` more of its kind a step counts for a third of what it did."""
        kinds = np.where(features[:, _MIXED_BASE] > 0.0, _MIXED, np.where(features[:, 3] > 0.0, _DECODE, _PREFILL))
        squares, products, counts = self.squares.copy(), self.products.copy(), self.counts.copy()
        for kind in (_PREFILL, _DECODE, _MIXED):
            own = kinds == kind
            count = np.count_nonzero(own)
            if not count:
                continue
            kept = math.exp(-count / memory)
            weighted = features[own] * weights[own, None]
            squares[kind] = squares[kind] * kept + weighted.T @ features[own]
            products[kind] = products[kind] * kept + weighted.T @ seconds[own]
            counts[kind] = counts[kind] * kept + count
        return StepEquations(squares, products, counts)

    def solve(self, prior: Matrix) -> Matrix:
        """The six coefficients, none negative, that fit best. A term of ``prior`` that is 0 is not known."""
        fits = [self._solve(prior, base) for base in (0, 3)]
        return min(fits, key=lambda fit: fit[1])[0]

    def _solve(self, prior: Matrix, base: int) -> tuple[Matrix, float]:
        """The best where steps that do both pay this base, and how far off they are (smaller is better)."""
        fold = np.eye(_TERMS, _TERMS - 1)
        fold[_MIXED_BASE, base] = 1.0
        squares, products = fold.T @ self.squares.sum(axis=0) @ fold, fold.T @ self.products.sum(axis=0)
        # In units in which a term alone would explain the steps, or in which the prior is one: only then do weights compare.
        believed = prior > 0.0
        unit = np.where(believed, prior, np.sqrt(self.counts.sum() / np.maximum(np.diag(squares), 1e-30)))
        pull = np.where(believed, _PRIOR_WEIGHT, _DOUBT)
        squares, products = squares * np.outer(unit, unit) + np.diag(pull), products * unit + pull * believed
        share = nonnegative(squares, products)
        return share * unit, float(share @ squares @ share - 2.0 * share @ products)


def features(work: StepWork) -> tuple[float, ...]:
    """What each term is multiplied by."""
    prefill, decode = work.prefill_tokens > 0, work.batch > 0
    tokens = (work.prefill_tokens, work.prefill_squares)
    return (prefill and not decode, *tokens, decode and not prefill, work.batch, work.context_tokens, prefill and decode)


def expected_s(rows: Matrix, coefficients: Matrix) -> Matrix:
    """What the coefficients say of steps with these features."""
    seconds: Matrix = rows @ np.append(coefficients, max(coefficients[0], coefficients[3]))
    return seconds
