"""The first policies: they look at nothing, at turns, and at outstanding work."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from core.ids import WorkerId
from router.balancer.base import Policy
from router.plan import Ask, Plan, Scored, View


class Random(Policy):
    """Any candidate, all equally likely. What the others are measured against."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def score(self, ask: Ask, candidates: Sequence[Plan], view: View) -> list[Scored]:
        return [Scored(plan, self._rng.random(), "drawn at random") for plan in candidates]


class RoundRobin(Policy):
    """Whoever has waited longest for a turn, prefill and decode counted apart."""

    def __init__(self) -> None:
        self._turn = 0
        self._last_prefill: dict[WorkerId, int] = defaultdict(int)
        self._last_decode: dict[WorkerId, int] = defaultdict(int)

    def score(self, ask: Ask, candidates: Sequence[Plan], view: View) -> list[Scored]:
        return [
            Scored(plan, float(turns := self._last_prefill[plan.prefill] + self._last_decode[plan.decode]), f"sum of last turns {turns}")
            for plan in candidates
        ]

    def chosen(self, plan: Plan) -> None:
        self._turn += 1
        self._last_prefill[plan.prefill] = self._last_decode[plan.decode] = self._turn


class LeastOutstandingTokens(Policy):
    """Least work promised and not yet done: prompt tokens to compute on the one, tokens to hold and make on the other.

    Counts what this router sent itself, so a burst spreads before any worker has reported it. Ties are broken at random.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def score(self, ask: Ask, candidates: Sequence[Plan], view: View) -> list[Scored]:
        return [self._scored(plan, view) for plan in candidates]

    def _scored(self, plan: Plan, view: View) -> Scored:
        prefill = view[plan.prefill].outstanding_prefill_tokens
        decode = view[plan.decode].outstanding_decode_tokens
        # Below one token, so it decides between equals only; before it, two workers are better than one.
        tie = self._rng.random() / 2 + (0.0 if plan.is_split else 0.5)
        return Scored(plan, prefill + decode + tie, f"{prefill} prompt tokens ahead, {decode} tokens decoding")
