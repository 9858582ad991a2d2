"""A histogram of output lengths that forgets: bins a quarter of an octave wide, a fixed few of them."""

from __future__ import annotations

import math
from array import array

BINS_PER_OCTAVE = 4
_OCTAVES = 20
_BINS = BINS_PER_OCTAVE * _OCTAVES + 1
_SMALL = 1e-9
_LARGE = 1e9
_KEPT = 256
"""Answers to each kind of question."""


class LengthHistogram:
    """After ``memory`` more lengths one counts for a third of what it did. Half a kilobyte twice, and the answers given since the newest
    length: requests that wait are planned again and again, and ask the same. Every call is O(bins) at most."""

    __slots__ = ("_growth", "_newest", "_quantiles", "_sums", "_tails", "_weights")

    def __init__(self, memory: int) -> None:
        self._weights = array("d", bytes(8 * _BINS))
        self._sums = array("d", bytes(8 * _BINS))
        """Of the lengths in a bin, weighted as in ``_weights``."""
        self._growth = math.exp(1 / memory)
        self._newest = 1.0
        """The weight of the newest: the others need not be touched to make them lighter."""
        self._tails: dict[int, tuple[float, float]] = {}
        self._quantiles: dict[tuple[int, float], float] = {}

    def add(self, tokens: int) -> None:
        """A length was seen."""
        self._tails.clear()
        self._quantiles.clear()
        self._newest *= self._growth
        if self._newest > _LARGE:
            self._rescale()
        bin_ = bin_of(tokens)
        self._weights[bin_] += self._newest
        self._sums[bin_] += self._newest * tokens

    def beyond(self, tokens: int) -> float:
        """How many lengths above ``tokens`` it remembers; the older the less they count."""
        return self._tail(tokens)[0] / self._newest

    def mean_beyond(self, tokens: int, limit: int) -> float:
        """The mean of the lengths above ``tokens``, each counted as ``limit`` at most; there must be some above."""
        count, total = self._tail(tokens)
        last = bin_of(limit)
        cut_count, cut_total = self._tail(limit) if last < _BINS - 1 else (0.0, 0.0)
        return max(tokens, min(limit, (total - cut_total + cut_count * limit) / count)) if count else float(tokens)

    def quantile_beyond(self, tokens: int, part: float) -> float:
        """The length that ``part`` of those above ``tokens`` do not exceed; there must be some above."""
        known = self._quantiles.get((tokens, part))
        if known is None:
            if len(self._quantiles) >= _KEPT:
                self._quantiles.clear()
            known = self._quantiles[tokens, part] = self._find_quantile(tokens, part)
        return known

    def _find_quantile(self, tokens: int, part: float) -> float:
        left = part * self._tail(tokens)[0]
        first = bin_of(tokens)
        low, high = EDGES[first], EDGES[first + 1]
        weight, low = self._weights[first] * _above(tokens, low, high), max(low, float(tokens))
        if weight >= left and weight > 0.0:
            return low + (high - low) * left / weight
        left -= weight
        for bin_, weight in enumerate(self._weights[first + 1 :], first + 1):
            if weight >= left and weight > 0.0:
                low, high = EDGES[bin_], EDGES[bin_ + 1]
                return low + (high - low) * left / weight
            left -= weight
        return EDGES[_BINS]

    def _tail(self, tokens: int) -> tuple[float, float]:
        """Weight, and weighted sum, of the lengths above ``tokens``; within its bin lengths are thought to be spread evenly."""
        known = self._tails.get(tokens)
        if known is None:
            if len(self._tails) >= _KEPT:
                self._tails.clear()
            known = self._tails[tokens] = self._find_tail(tokens)
        return known

    def _find_tail(self, tokens: int) -> tuple[float, float]:
        bin_ = bin_of(tokens)
        count, total = sum(self._weights[bin_ + 1 :]), sum(self._sums[bin_ + 1 :])
        low, high = EDGES[bin_], EDGES[bin_ + 1]
        above = self._weights[bin_] * _above(tokens, low, high)
        return count + above, total + above * (max(low, tokens) + high) / 2

    def _rescale(self) -> None:
        for books in (self._weights, self._sums):
            for bin_, value in enumerate(books):
                books[bin_] = value / self._newest if value / self._newest > _SMALL else 0.0
        self._newest = 1.0


def bin_of(tokens: float) -> int:
    """The bin that a length is in."""
    return min(_BINS - 1, int(BINS_PER_OCTAVE * math.log2(tokens))) if tokens > 1 else 0


EDGES: tuple[float, ...] = (0.0, *(2.0 ** (bin_ / BINS_PER_OCTAVE) for bin_ in range(1, _BINS + 1)))
"""Where bins begin, and where the last one ends: a table, for every decision asks for hundreds."""


def _above(tokens: float, low: float, high: float) -> float:
    """The part of a bin that is above ``tokens``."""
    return min(1.0, max(0.0, (high - tokens) / (high - low)))
