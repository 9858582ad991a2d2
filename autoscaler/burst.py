"""Whether so much more came within the last seconds than usual that it is no chance: a burst, before any rate or mean knows of it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from autoscaler.signals import Arrived
from autoscaler.usual import Usual

_SURE = 14.0
"""Logarithm of the odds against chance: a million to one. There are some hundred thousand looks in a day."""


class Burst(msgspec.Struct, frozen=True):
    """What is asked while it lasts, as far as it has been seen."""

    over_s: float
    requests_per_s: float
    prompt_tokens: float
    """Of a mean request."""

    @property
    def text(self) -> str:
        """For people."""
        each = f"{self.prompt_tokens:.0f} prompt tokens"
        return f"in the last {self.over_s:g} s there came {self.requests_per_s:.1f} requests per second of {each} each"


def burst(latest: Iterable[Arrived], usual: Usual, burstiness: float) -> Burst | None:
    """The one with most tokens per second, where any of ``latest`` is one.

    A few requests say little of a rate: it is meant for what can be undone in seconds.
    """
    sure = [each for each in latest if each.requests > 0 and odds(each, usual) / burstiness > _SURE]
    most = max(sure, key=lambda each: each.prompt_tokens / each.over_s, default=None)
    return None if most is None else Burst(most.over_s, most.requests / most.over_s, most.prompt_tokens / most.requests)


def odds(came: Arrived, usual: Usual) -> float:
    """Logarithm of the odds against so many tokens where what is usual goes on; 0 where they are no more than that, or nothing is usual.

    It is Chernoff's bound for requests that come as they like, with prompts of exponential lengths. Where both vary more, it takes
    as many times as much as ``ScalerPolicy.burstiness`` says.
    """
    rate, prompt_tokens = usual.requests_per_s, usual.means.prompt_tokens
    if rate is None or not prompt_tokens:
        return 0.0
    more = math.sqrt(came.prompt_tokens / prompt_tokens) - math.sqrt(rate * came.over_s)
    return max(0.0, more) ** 2
