"""How long jobs of one size wait in one queue for several workers when they come at random: the M/D/c queue, approximately."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

_STEPS = 40
"""Of a bisection: to a millionth of a millionth."""


def wait_s(rate_per_s: float, service_s: float, workers: int, share: float) -> float:
    """What ``share`` of the jobs wait at most; infinite where more come than can be done.

    Sakasegawa's approximation for those that wait at all and for their mean; beyond, waits are as good as exponential.
    """
    load = rate_per_s * service_s / workers
    if load >= 1.0:
        return math.inf
    waiting = load ** (math.sqrt(2.0 * (workers + 1)) - 1.0)
    if waiting <= 1.0 - share:
        return 0.0
    return service_s / (2.0 * workers * (1.0 - load)) * math.log(waiting / (1.0 - share))


def busy(mean: float, share: float) -> float:
    """How many are there at most, ``share`` of the time, of those that come at random and are ``mean`` on average."""
    return mean + NormalDist().inv_cdf(share) * math.sqrt(mean)


def largest(keeps: Callable[[float], bool], limit: float) -> float:
    """The largest value up to ``limit`` that ``keeps`` is true for, if it is for all below; 0 where it is for none."""
    low, high = 0.0, limit
    if keeps(limit):
        return limit
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low
