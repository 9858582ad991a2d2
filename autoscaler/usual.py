"""What is usual: it follows slowly what was just measured where that may be chance, and at once where it is not."""

from __future__ import annotations

import math

import msgspec

from autoscaler.demand import Means

_LENGTHS_S = 180.0
_RATE_S = 60.0
"""After so long, two thirds of what was before are forgotten."""
_MINUTE_S = 60.0
"""Over which what is measured is a mean."""
_LEAP = 1.5
"""A mean length that is so many times the usual one is no chance, but other traffic."""
_CHANCE = 3.0
"""Deviations of a Poisson count from the usual one that are none, either."""
_BEFORE_S = 5.0
"""More than ``LATEST_S``."""


class Usual(msgspec.Struct, frozen=True):
    """A mean request, and how many of them come."""

    means: Means = Means()
    requests_per_s: float | None = None
    at_s: float | None = None

    def seen(self, means: Means, requests_per_s: float | None, now_s: float) -> Usual:
        """After one more look; without a rate, the old one stays."""
        before, past_s = self.means, 0.0 if self.at_s is None else max(0.0, now_s - self.at_s)
        weight = 1 - math.exp(-past_s / _LENGTHS_S)
        prompt, output = (
            _length(before.prompt_tokens, means.prompt_tokens, weight),
            _length(before.output_tokens, means.output_tokens, weight),
        )
        is_new = prompt == means.prompt_tokens  # other prompts, other hits
        hits = means.hit_rate if is_new else before.hit_rate + weight * (means.hit_rate - before.hit_rate)
        rate = _rate(self.requests_per_s, requests_per_s, 1 - math.exp(-past_s / _RATE_S))
        return Usual(Means(prompt, output, hits), rate, now_s)


def _length(usual: float | None, newest: float | None, weight: float) -> float | None:
    if usual is None or newest is None or not usual / _LEAP < newest < usual * _LEAP:
        return newest
    return usual + weight * (newest - usual)


def _rate(usual: float | None, newest: float | None, weight: float) -> float | None:
    if usual is None or newest is None:
        return usual if newest is None else newest
    chance = _CHANCE * math.sqrt(max(usual, 1 / _MINUTE_S) / _MINUTE_S)
    return newest if newest == 0 or abs(newest - usual) > chance else usual + weight * (newest - usual)


class Before(msgspec.Struct, frozen=True):
    """What was usual five to ten seconds ago. A burst that goes on has changed what is usual now, by its long prompts above all, before a
    second or two of it can be told from chance."""

    then: Usual = Usual()
    next: Usual = Usual()
    since_s: float | None = None

    def seen(self, usual: Usual, now_s: float) -> Before:
        """After one more look."""
        if self.since_s is None:
            return Before(usual, usual, now_s)
        return self if now_s - self.since_s < _BEFORE_S else Before(self.next, usual, now_s)
