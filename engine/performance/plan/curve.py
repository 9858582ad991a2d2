"""A function that is dear to evaluate, looked up at some places and straight between them."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable

_GROWTH = 1.25
"""From one place to the next: a step's seconds are within half a per cent of a straight line between them."""


class Curve:
    """``value`` of arguments from 1 on, which may not fall, nor grow faster than its argument. Below 1 it is that of 1, beyond ``end``
    the last slope goes on."""

    def __init__(self, value: Callable[[float], float], end: float) -> None:
        places = [1.0, 2.0]
        while places[-1] < end:
            places.append(max(places[-1] + 1.0, places[-1] * _GROWTH))
        self._places = places
        self._values = [value(place) for place in places]
        self._rates = [place / worth for place, worth in zip(places, self._values, strict=True)]

    def __call__(self, at: float) -> float:
        if at <= 1.0:
            return self._values[0]
        low, slope = self._segment(bisect_left(self._places, at))
        return self._values[low] + slope * (at - self._places[low])

    def reached(self, limit: float) -> float:
        """The largest argument whose value is at most ``limit``; 0 where there is none."""
        if limit < self._values[0]:
            return 0.0
        low, slope = self._segment(bisect_right(self._values, limit))
        return self._places[low] + (limit - self._values[low]) / slope if slope else math.inf

    def settled(self, rate: float) -> float:
        """The argument that is ``rate`` times its value: as many as there are where each takes that long; infinite where there is none."""
        if rate <= self._rates[0]:
            return rate * self._values[0]
        low, slope = self._segment(bisect_left(self._rates, rate))
        left = 1.0 - rate * slope
        return rate * (self._values[low] - slope * self._places[low]) / left if left > 0.0 else math.inf

    def _segment(self, above: int) -> tuple[int, float]:
        """The place before that with index ``above``, and the slope behind it."""
        high = min(max(1, above), len(self._places) - 1)
        low = high - 1
        return low, (self._values[high] - self._values[low]) / (self._places[high] - self._places[low])
