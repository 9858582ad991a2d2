"""Policies that choose one worker after the other: each is rated by itself, and plans are put in the order of the two ratings.

Most of the field decides so. It is cheap, for with so many prefill and so many decode workers only their sum is looked at and not
their product; and it is blind for whatever belongs to a pair, such as the link between the two.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from core.ids import WorkerId
from router.balancer.base import Policy, Shortlist
from router.balancer.candidates import Candidates
from router.plan import Ask, Plan, Scored, View


class Rating(NamedTuple):
    """What a rule says of one worker: smaller is better, later numbers decide between equals."""

    cost: tuple[float, ...]
    why: str


def around_the_best(candidates: Candidates, prefill: Callable[[WorkerId], Any], decode: Callable[[WorkerId], Any]) -> list[Plan]:
    """The pair of those that cost least, every other worker beside the best of the other side, and all that serve alone.

    Where a pair costs as much as its two sides together, the cheapest of all plans is among these.
    """
    plans = [Plan(worker, worker) for worker in candidates.alone]
    if candidates.prefill and candidates.decode:
        first, second = min(candidates.prefill, key=prefill), min(candidates.decode, key=decode)
        plans += [Plan(worker, second) for worker in candidates.prefill]
        plans += [Plan(first, worker) for worker in candidates.decode if worker != second]
    return plans


Places = Mapping[WorkerId, int]
"""Workers in the order of their ratings; 0 is the best."""


class OneByOne(Policy):
    """Subclasses rate workers. Equals come in random order, or many routers would all take the same one.

    A plan's cost is its place among all plans, so it compares only with others of the same decision.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    @abstractmethod
    def rate_prefill(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        """Of each worker, as one to compute the prompt, or to do all of it where it would serve alone."""

    @abstractmethod
    def rate_decode(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        """Of each worker, as one to make the tokens."""

    def order(self, ask: Ask, prefill: Places, decode: Places, has_pairs: bool) -> Callable[[Plan], int]:
        """A plan's place, from those of its workers. As it stands here: prefill first, then decode."""
        return lambda plan: prefill[plan.prefill] * len(decode) + decode[plan.decode]

    def score(self, ask: Ask, candidates: Sequence[Plan], view: View) -> list[Scored]:
        pairs = [plan for plan in candidates if plan.is_split]
        alone = [plan.decode for plan in candidates if not plan.is_split]
        prefill, decode = [plan.prefill for plan in pairs], [plan.decode for plan in pairs]
        price, _, _ = self._price(ask, prefill, decode, alone, view)
        return [price(plan) for plan in candidates]

    def decide(self, ask: Ask, candidates: Candidates, view: View) -> Shortlist:
        has_pairs = bool(candidates.prefill and candidates.decode)
        pools = (candidates.prefill, candidates.decode) if has_pairs else ((), ())
        price, prefill, decode = self._price(ask, *pools, candidates.alone, view)
        scored = [price(plan) for plan in around_the_best(candidates, prefill.__getitem__, decode.__getitem__)]
        return Shortlist(scored, len(scored))

    def _price(
        self, ask: Ask, prefill: Sequence[WorkerId], decode: Sequence[WorkerId], alone: Sequence[WorkerId], view: View
    ) -> tuple[Callable[[Plan], Scored], Places, Places]:
        # Not sets: their order changes from process to process, and a seed would not give the same choices twice.
        firsts, seconds = list(dict.fromkeys((*prefill, *alone))), list(dict.fromkeys((*decode, *alone)))
        to_prefill = dict(zip(firsts, self.rate_prefill(ask, firsts, view), strict=True))
        to_decode = dict(zip(seconds, self.rate_decode(ask, seconds, view), strict=True))
        places = self._places(to_prefill), self._places(to_decode)
        order = self.order(ask, *places, has_pairs=bool(prefill))

        def price(plan: Plan) -> Scored:
            return Scored(plan, float(order(plan)), f"{to_prefill[plan.prefill].why}; {to_decode[plan.decode].why}")

        return price, *places

    def _places(self, ratings: Mapping[WorkerId, Rating]) -> Places:
        drawn = sorted(ratings, key=lambda worker: (ratings[worker].cost, self._rng.random()))
        return {worker: place for place, worker in enumerate(drawn)}
