"""Least squares without negative coefficients, for a handful of unknowns. Pure Python: a worker fits a few hundred steps with it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

_PIVOT = 1e-10
"""A column that is this close to a sum of others, of length 1 like all, is not told apart from them."""


def nonnegative_least_squares(rows: Sequence[Sequence[float]], values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The x >= 0 with the least ``sum(w * (row . x - value)^2)``. Weights are not negative.

    Every choice of columns is solved without the bound; the best of the solutions without a negative entry is the answer, as the
    true one is among them. That is 2^columns small systems: exact, and nothing to converge.
    """
    width = len(rows[0])
    gram = [[0.0] * width for _ in range(width)]
    moments = [0.0] * width
    for row, value, weight in zip(rows, values, weights, strict=True):
        for i in range(width):
            left = weight * row[i]
            if left:
                moments[i] += left * value
                for j in range(i + 1):
                    gram[i][j] += left * row[j]
    # Columns differ by ten orders of magnitude (steps, tokens squared): all are brought to length 1 first.
    scale = [gram[i][i] ** 0.5 or 1.0 for i in range(width)]
    gram = [[gram[max(i, j)][min(i, j)] / (scale[i] * scale[j]) for j in range(width)] for i in range(width)]
    moments = [moments[i] / scale[i] for i in range(width)]
    best = [0.0] * width
    gain = 0.0
    for size in range(1, width + 1):
        for columns in combinations(range(width), size):
            solution = _solve([[gram[i][j] for j in columns] for i in columns], [moments[i] for i in columns])
            if solution is None or min(solution) < 0.0:
                continue
            explained = sum(x * moments[i] for i, x in zip(columns, solution, strict=True))
            if explained > gain:
                gain = explained
                best = [0.0] * width
                for i, x in zip(columns, solution, strict=True):
                    best[i] = x / scale[i]
    return best


def _solve(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Gauss with pivots; None where a column depends on others."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(rows[i][column]))
        if abs(rows[pivot][column]) < _PIVOT:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for i in range(column + 1, size):
            factor = rows[i][column] / rows[column][column]
            if factor:
                for j in range(column, size + 1):
                    rows[i][j] -= factor * rows[column][j]
    solution = [0.0] * size
    for i in reversed(range(size)):
        solution[i] = (rows[i][size] - sum(rows[i][j] * solution[j] for j in range(i + 1, size))) / rows[i][i]
    return solution
