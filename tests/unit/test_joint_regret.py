"""How much dearer the plan that Baton's policy takes is than the cheapest of all, by its own costs."""

from __future__ import annotations

import random

import pytest

from benchmarks.decision import Known, cluster
from core.ids import RequestId, WorkerId
from router.balancer.balancer import Balancer
from router.balancer.base import KEPT
from router.balancer.candidates import Alone, candidates
from router.balancer.joint import Joint
from router.balancer.price_parts import TERMS
from router.plan import Ask
from router.predict.links import LinkModel


class Links(Known):
    """Half of the pairs have a slower link."""

    def __init__(self, gbps: float, slower: float, rng: random.Random) -> None:
        self._links: dict[tuple[WorkerId, WorkerId], float] = {}
        self._gbps, self._slower, self._rng = gbps, slower, rng

    def link(self, prefill: WorkerId, decode: WorkerId) -> LinkModel:
        gbps = self._links.setdefault((prefill, decode), self._gbps * (self._slower if self._rng.random() < 0.5 else 1.0))
        return LinkModel(0.002, gbps * 1e9 / 8)


def regrets(workers: int, decisions: int, links: tuple[float, float], hit: float, without: str = "blur") -> list[float]:
    """In seconds, of each decision about one state of a cluster; ``hit`` is the part of the workers that hold some of the prompt."""
    rng, found = random.Random(3), []
    view = cluster(workers, rng)
    for number in range(decisions):
        policy = Joint(Links(*links, random.Random(number)), random.Random(number), frozenset({"blur", without}))
        hits = {worker: rng.randrange(11_000) for worker in rng.sample(list(view), int(workers * hit))}
        likely = (30.0, 100.0, 200.0, 400.0, 900.0)
        ask = Ask(RequestId(str(number)), 12_000, 1000, True, frozenset(), None, False, 100.0, 0.0, hits, 300.0, likely, 3.0, 0.05)
        possible = candidates(ask, view, Alone.DECODE)
        taken = min(scored.cost for scored in policy.decide(ask, possible, view).scored)
        cheapest = min(scored.cost for scored in policy.score(ask, possible.plans(), view))
        found.append(taken - cheapest)
    return found


LINKS = {"fast": (200.0, 1.0), "mixed": (25.0, 0.2), "slow": (10.0, 1.0)}


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("hit", [0.1, 0.4, 1.0])
def test_of_few_workers_the_cheapest_plan_is_taken(links: tuple[float, float], hit: float) -> None:
    """Up to the little that is drawn to break ties, nearly always."""
    found = regrets(8, 40, links, hit)
    assert sum(regret > 1e-5 for regret in found) <= 2
    assert sum(found) / len(found) < 0.02


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("hit", [0.1, 0.4])
def test_of_many_workers_a_plan_is_taken_that_is_hardly_dearer(links: tuple[float, float], hit: float) -> None:
    """Transfers, broken promises and stalls count where candidates are chosen, not only between those."""
    found = regrets(64, 25, links, hit)
    assert sum(found) / len(found) < 0.05


def test_the_header_counts_the_plans_that_were_compared() -> None:
    """Not those that are written down with the decision, of which there are eight at most."""
    view = cluster(64, random.Random(3))
    ask = Ask(RequestId("r"), 12_000, 1000, True, now_s=100.0, expected_tokens=300.0)
    decision = Balancer(Joint(Known(), random.Random(1))).choose(ask, view)
    assert (len(decision.candidates), decision.priced) == (KEPT, 4 * 4 + 4)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_that_is_left_out_does_not_choose_candidates_either(term: str) -> None:
    """Or an ablation would show half of what the term does."""
    found = regrets(64, 15, LINKS["mixed"], 0.3, without=term)
    assert sum(found) / len(found) < 0.05
