"""Least work promised and not yet done."""

from __future__ import annotations

import random
from collections.abc import Sequence

from router.balancer.base import Policy, Shortlist
from router.balancer.candidates import Candidates
from router.balancer.one_by_one import around_the_best
from router.balancer.workload import decode_tokens, prompt_tokens
from router.plan import Ask, Plan, Scored, View


class LeastOutstandingTokens(Policy):
    """Prompt tokens to compute on the one, tokens to hold and make on the other.

    Counts what this router sent itself, so a burst spreads before any worker has reported it. Ties are broken at random.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def score(self, ask: Ask, candidates: Sequence[Plan], view: View) -> list[Scored]:
        return [self._scored(plan, view) for plan in candidates]

    def decide(self, ask: Ask, candidates: Candidates, view: View) -> Shortlist:
        plans = around_the_best(
            candidates,
            lambda worker: (prompt_tokens(view[worker]), self._rng.random()),
            lambda worker: (decode_tokens(view[worker]), self._rng.random()),
        )
        return Shortlist(self.score(ask, plans, view), len(plans))

    def _scored(self, plan: Plan, view: View) -> Scored:
        prefill, decode = prompt_tokens(view[plan.prefill]), decode_tokens(view[plan.decode])
        # Below one token, so it decides between equals only; before it, two workers are better than one.
        tie = self._rng.random() / 2 + (0.0 if plan.is_split else 0.5)
        return Scored(plan, prefill + decode + tie, f"{prefill} prompt tokens ahead, {decode} tokens decoding")
