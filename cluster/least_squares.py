"""Least squares without negative terms (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23), for a few terms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 50
"""Far more than a handful of terms need; rounding must not make it go on for ever."""


def nonnegative(squares: NDArray[np.float64], products: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ``x >= 0`` that minimises ``x @ squares @ x - 2 * x @ products``; ``squares`` is symmetric and positive definite."""
    best = np.asarray(np.linalg.solve(squares, products), dtype=np.float64)
    if (best >= 0.0).all():
        return best
    x = np.zeros(len(products))
    free = np.zeros(len(products), dtype=bool)
    enough = 1e-10 * float(np.abs(products).max())
    for _ in range(_ROUNDS):
        slope = np.where(free, -np.inf, products - squares @ x)
        if float(slope.max()) <= enough:
            break
        free[int(slope.argmax())] = True
        x = _descend(squares, products, x, free)
    return x


def _descend(
    squares: NDArray[np.float64], products: NDArray[np.float64], x: NDArray[np.float64], free: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The best among the ``free`` terms, reached from ``x`` as far as none goes below zero; takes those that would out of them."""
    while free.any():
        best = np.zeros(len(x))
        best[free] = np.linalg.solve(squares[np.ix_(free, free)], products[free])
        below = free & (best <= 0.0)
        if not below.any():
            return best
        steps = np.full(len(x), np.inf)
        steps[below] = x[below] / (x[below] - best[below])
        first = int(steps.argmin())
        x = np.maximum(0.0, x + steps[first] * (best - x))
        x[first] = 0.0  # not a rounding error above it: each round takes one out, so there is a last one
        free &= x > 0.0
    return np.zeros(len(x))
