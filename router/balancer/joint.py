"""Baton's own policy: prefill, transfer and decode priced together, in seconds of everybody's time.

A plan's cost is the time its request will probably take, plus the time it takes from others that run where it goes, plus what
broken promises cost. The parts (``pricing.TERMS``) are predicted from each worker's own step times, from this router's books and
from what the workers say they do for others. Singles and pairs are priced alike, so a prompt is handed over only where that is
predicted to be better; and decode load counts as it will be when the prompt is done (Mooncake, FAST'25, section 6).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping, Sequence

from core.ids import WorkerId
from router.balancer.base import KEPT, Policy, Predictions, Shortlist
from router.balancer.candidates import Alone, Candidates
from router.balancer.price_parts import Priced
from router.balancer.pricing import SWITCHES, Pricing
from router.balancer.rate import Rate
from router.plan import Ask, Plan, Scored, View, WorkerView

_KEPT_PER_SIDE = 4
"""Workers of each pool, the best ones, that are paired. A thousand workers would make 250,000 pairs."""
_ALONE = 4
"""Singles, likewise."""
_ALONE_LOOKED_AT = 16
"""Of so many, those that decode best: with the prompt, too, a worker takes longer to price than with all else."""
_HERD = 0.1
"""Costs are blurred by up to this part where others' legs are all there is: routers that see the same must not all do the same."""


class Joint(Policy):
    """``without`` is for ablations: see ``SWITCHES``."""

    binds_late = True

    def __init__(self, predictions: Predictions, rng: random.Random, without: frozenset[str] = frozenset()) -> None:
        unknown = without - SWITCHES
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))} cannot be left out; what can: {', '.join(sorted(SWITCHES))}")
        self._predictions = predictions
        self._rng = rng
        self._without = without
        self._herd = 0.0 if "blur" in without else _HERD
        self._share = Rate()
        self._handed = Rate()
        self.alone = Alone.NEVER if "alone" in without else Alone.DECODE  # type: ignore[misc]  # for everybody else it never differs

    def decide(self, ask: Ask, candidates: Candidates, view: View) -> Shortlist:
        """Of the pairs of the workers that are best on their side, and the best singles, those that cost least. Decode workers are the best
        ones for a prompt that the best prefill worker computes; in each of the three is whoever has most of the prompt."""
        pricing, hits = self._pricing(ask, view), ask.hits
        senders = [*candidates.prefill, *candidates.full]
        few = max(_KEPT_PER_SIDE, _KEPT_PER_SIDE**2 // max(1, len(candidates.decode)))
        prefill = _best(senders, pricing.prefilling_s, hits, few)
        best = prefill[0] if prefill else candidates.alone[0]
        few = max(_KEPT_PER_SIDE, _KEPT_PER_SIDE**2 // max(1, len(prefill)))
        in_s = pricing.to_prefill_s(best)
        decode = _best(candidates.decode, lambda worker: pricing.decoding_s(worker, best, in_s), hits, few) if prefill else []
        singles = _best(candidates.alone, lambda worker: pricing.answer_s(worker, in_s), hits, _ALONE_LOOKED_AT)
        alone = _best(singles, lambda worker: pricing.alone_s(worker, in_s), hits, _ALONE)
        plans = [*(Plan(p, d) for p in prefill for d in decode), *(Plan(w, w) for w in alone)]
        priced = [self._blurred(pricing.priced(plan), view) for plan in plans]
        kept = heapq.nsmallest(KEPT, priced, key=lambda each: each.cost)
        if candidates.full and all(each.plan.prefill in candidates.full for each in kept):
            others = [each for each in priced if each.plan.prefill not in candidates.full]
            kept += heapq.nsmallest(1, others, key=lambda each: each.cost)
        return Shortlist([each.scored() for each in kept], len(priced))

    def score(self, ask: Ask, candidates: Sequence[Plan], view: View) -> list[Scored]:
        pricing = self._pricing(ask, view)
        return [self._blurred(pricing.priced(plan), view).scored() for plan in candidates]

    def foretell(self, ask: Ask, plan: Plan, view: View) -> Scored:
        """What is to be expected of one plan, whoever has chosen it."""
        return self._pricing(ask, view).priced(plan).scored()

    def soonest_s(self, ask: Ask, view: View, ahead_tokens: float, everywhere: bool) -> float:
        """When its first token will come, from its arrival, if it waits until workers have taken on so many tokens for others."""
        return ask.waited_s + self._pricing(ask, view).soonest_s(ahead_tokens, everywhere)

    def chosen(self, ask: Ask, best: Scored) -> None:
        if best.plan.prefill != ask.keeper:
            self._share.took(best.plan.prefill, best.stall_s, ask.now_s)
        if best.plan.is_split:
            self._handed.took(best.plan.decode, 1.0, ask.now_s)

    def forget(self, worker: WorkerId) -> None:
        self._share.forget(worker)
        self._handed.forget(worker)

    def _pricing(self, ask: Ask, view: View) -> Pricing:
        return Pricing(ask, view, self._predictions, self._share, self._handed, self._without)

    def _blurred(self, priced: Priced, view: View) -> Priced:
        """Ties are broken at random, and where other routers are at work, near ties too."""
        others = max(_others_part(view[priced.plan.prefill]), _others_part(view[priced.plan.decode]))
        priced.cost = priced.cost * (1.0 + self._herd * others * self._rng.random()) + 1e-6 * self._rng.random()
        return priced


def _best(workers: Sequence[WorkerId], cost: Callable[[WorkerId], float], hits: Mapping[WorkerId, int], few: int) -> list[WorkerId]:
    """The ``few`` that cost least, in order; the last of them makes way for the one that has most of the prompt."""
    if len(workers) <= few:
        return sorted(workers, key=cost)
    best = heapq.nsmallest(few, workers, key=cost)
    if hits and len(best) < len(workers):
        most = max(workers, key=lambda worker: hits.get(worker, 0))
        if most in hits and most not in best:
            best[-1] = most
    return best


def _others_part(seen: WorkerView) -> float:
    others = seen.load.others.legs
    return others / (others + seen.legs + 1)
