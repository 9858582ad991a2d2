"""How long jobs wait in one queue for several workers when they come at random: the M/G/c queue, approximately."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

_STEPS = 27
"""Of a bisection: to a hundredth of a millionth."""


class Waits(msgspec.Struct, frozen=True):
    """Of jobs in a queue: some do not wait, those that do wait times as good as exponential."""

    waiting: float = 0.0
    """Share of those that wait."""
    mean_s: float = 0.0
    """Of those that wait; infinite where more come than can be done."""

    @classmethod
    def of(cls, load: float, service_s: float, workers: float, variation: float = 0.0) -> Waits:
        """Sakasegawa's approximation. ``load`` is the share of ``workers`` that are busy on average, ``variation`` the variance of service
        times over their mean's square; 0: jobs are alike."""
        if load >= 1.0:
            return cls(1.0, math.inf)
        waiting = load ** (math.sqrt(2.0 * (workers + 1.0)) - 1.0)
        return cls(waiting, service_s * (1.0 + variation) / (2.0 * workers * (1.0 - load)))

    def longer(self, than_s: float) -> float:
        """Share of the jobs that wait longer."""
        if than_s < 0.0 or math.isinf(self.mean_s):
            return 1.0
        return self.waiting * math.exp(-than_s / self.mean_s) if self.mean_s else 0.0


class InTurn(msgspec.Struct, frozen=True):
    """Jobs that wait in one queue, and in another."""

    first: Waits
    then: Waits = Waits()

    def longer(self, than_s: float) -> float:
        """Share of the jobs that wait longer, in both together. Of two exponential times that are (nearly) alike, one is taken to be a
        thousandth longer."""
        a, b = self.first, self.then
        if than_s < 0.0 or math.isinf(a.mean_s) or math.isinf(b.mean_s):
            return 1.0
        if not a.mean_s or not b.mean_s:
            return a.longer(than_s) + b.longer(than_s)
        mean_s = b.mean_s if abs(a.mean_s - b.mean_s) > 1e-3 * a.mean_s else a.mean_s * 1.001
        both = (a.mean_s * math.exp(-than_s / a.mean_s) - mean_s * math.exp(-than_s / mean_s)) / (a.mean_s - mean_s)
        return a.longer(than_s) * (1.0 - b.waiting) + b.longer(than_s) * (1.0 - a.waiting) + a.waiting * b.waiting * both

    def late(self, own_s: Sequence[float], limit_s: float) -> float:
        """Share of the jobs that wait, and then take one of ``own_s``, all equally frequent, for longer than ``limit_s`` together."""
        return sum(self.longer(limit_s - own) for own in own_s) / len(own_s)

    def within_s(self, own_s: Sequence[float], share: float) -> float:
        """What that takes ``share`` of the jobs at most; infinite where more come than can be done."""
        if math.isinf(self.first.mean_s) or math.isinf(self.then.mean_s):
            return math.inf
        low, high = 0.0, max(own_s)
        if self.late(own_s, high) > 1.0 - share:
            tail = max(1.0, math.log(2.0 / (1.0 - share)))
            low, high = high, high + 2.0 * tail * (self.first.mean_s + self.then.mean_s)
        for _ in range(_STEPS):
            middle = (low + high) / 2.0
            low, high = (low, middle) if self.late(own_s, middle) <= 1.0 - share else (middle, high)
        return high


def largest(keeps: Callable[[float], bool], limit: float) -> float:
    """The largest value up to ``limit`` that ``keeps`` is true for, if it is for all below; 0 where it is for none."""
    low, high = 0.0, limit
    if keeps(limit):
        return limit
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def smallest(keeps: Callable[[int], bool], limit: int) -> int | None:
    """The smallest number from 1 to ``limit`` that ``keeps`` is true for, if it is for all above; None where it is for none."""
    if limit < 1 or not keeps(limit):
        return None
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high
