"""Measured points joined by straight lines, sorted once so that a look-up is quick."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise


class Line:
    """The line through points (x, y) in any order: the first y before them, the last slope beyond, never below 0.

    Of two points at one x the last counts.
    """

    __slots__ = ("_slopes", "_x", "_y")

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        ordered = sorted(dict(points).items())
        self._x = [x for x, _ in ordered]
        self._y = [y for _, y in ordered]
        slopes = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairwise(ordered)]
        self._slopes = [*slopes, slopes[-1] if slopes else 0.0]

    def at(self, x: float) -> float:
        index = bisect_right(self._x, x) - 1
        if index < 0:
            return self._y[0]
        y = self._y[index] + self._slopes[index] * (x - self._x[index])
        return y if y > 0.0 else 0.0


class Surface:
    """A line over x for each of some rows, and straight lines between rows: the first row before it, the last slope beyond."""

    __slots__ = ("_lines", "_rows")

    def __init__(self, points: Iterable[tuple[float, float, float]]) -> None:
        """``points`` are (row, x, y)."""
        by_row: dict[float, list[tuple[float, float]]] = {}
        for row, x, y in points:
            by_row.setdefault(row, []).append((x, y))
        self._rows = sorted(by_row)
        self._lines = [Line(by_row[row]) for row in self._rows]

    def at(self, row: float, x: float) -> float:
        rows, lines = self._rows, self._lines
        if row <= rows[0] or len(rows) == 1:
            return lines[0].at(x)
        right = min(bisect_right(rows, row), len(rows) - 1)
        y0, y1 = lines[right - 1].at(x), lines[right].at(x)
        y = y0 + (y1 - y0) * (row - rows[right - 1]) / (rows[right] - rows[right - 1])
        return y if y > 0.0 else 0.0
