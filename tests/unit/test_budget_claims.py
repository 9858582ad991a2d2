"""A model's part in a shared budget: what is claimed, what becomes of the grant, and that two of them keep to it together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.plan import Add, Plan, PoolReport
from autoscaler.scaler import BatonScaler
from autoscaler.shared_budget import Claim, Grant, Ledger, Terms
from cluster.budget_claims import BudgetClaims, terms_of
from core.config import BatonConfig
from core.worker import Role
from tests.support.scaling import Paper, limits, paper, policy, traffic, worker

P, D = Role.PREFILL, Role.DECODE
COST = {P: 2.0, D: 1.0}
SCALED = {"enabled": True, "prefill": {"min": 1}, "decode": {"min": 0}, "objective": {"ttft_s": 1, "tpot_s": 1}}


@pytest.mark.parametrize(
    ("autoscaling", "expected"),
    [
        ({}, Terms(7.0, 1.0, 1.0, claims=False)),
        (SCALED | {"dry_run": True}, Terms(7.0, 1.0, 1.0, claims=False)),
        (SCALED | {"budget_weight": 3.0}, Terms(2.0, 1.0, 3.0, claims=True)),
    ],
    ids=["not scaled", "plans that nobody carries out", "scaled"],
)
def test_what_a_model_is_to_the_budget(autoscaling: dict[str, Any], expected: Terms):
    """All its workers, where nothing changes their number; its minima, where something does."""
    pools = {"prefill": {"count": 2, "num_gpus": 2, "tensor_parallel_size": 2}, "decode": {"count": 3, "num_gpus": 1}}
    assert terms_of(BatonConfig.model_validate({"model": "m", "autoscaling": autoscaling, **pools})) == expected


async def test_what_is_claimed():
    """What all workers hold, and what the last plan would have started; at least what there is, and that before any plan."""
    heard: list[Claim] = []

    async def ask(claim: Claim) -> Grant:
        heard.append(claim)
        return Grant(5.0, 8.0)

    claims = BudgetClaims(ask, COST, 8.0, clock=lambda: 77.0)
    workers = [worker("p", P), worker("d1", D), worker("d2", D)]
    plan = Plan(0.0, "any", (PoolReport(P, 1, 0, 1, within_limits=3), PoolReport(D, 2, 0, 2, within_limits=1)))
    assert await claims.granted(workers, None) == Grant(5.0, 8.0)
    await claims.granted(workers, plan)
    await claims.granted(workers, Plan(0.0, "any", (PoolReport(P, 1, 0, 1, within_limits=0),)))
    assert heard == [Claim(77.0, 4.0, 4.0), Claim(77.0, 4.0, 7.0), Claim(77.0, 4.0, 4.0)]


async def test_nothing_grows_while_nobody_answers():
    """Nor shrinks."""

    async def away(claim: Claim) -> Grant:
        raise ConnectionError

    assert await BudgetClaims(away, COST, 8.0).granted([worker("p", P)], None) == Grant(2.0, 8.0)


@pytest.mark.parametrize(
    ("granted_gpus", "here", "expected"),
    [
        (7.0, {P: 0, D: 0}, {P: 2, D: 3}),
        (6.0, {P: 0, D: 0}, {P: 0, D: 0}),
        (4.0, {P: 1, D: 1}, {P: 1, D: 1}),
        (9.0, {P: 4, D: 1}, {P: 2, D: 3}),
        (6.0, {P: 3, D: 1}, {P: 2, D: 1}),
    ],
    ids=["enough", "too little", "some are there already", "fewer than are there", "one of those that are there leaves"],
)
async def test_what_a_controller_begins_with(granted_gpus: float, here: dict[Role, int], expected: dict[Role, int]):
    """What it wants where all of that was granted, else what it has found."""

    async def ask(claim: Claim) -> Grant:
        return Grant(granted_gpus, 9.0)

    assert await BudgetClaims(ask, COST, 9.0).begins_with({P: 2, D: 3}, here) == expected


def test_a_plan_keeps_to_its_grant_and_says_so():
    """Whatever the own budget would allow; and what it would have liked is in it, for the next claim."""
    made = paper(BatonScaler(limits(budget=20), policy()))
    made.granted = Grant(3.0, 9.0, {"other": 6.0})
    plan = made.tick(traffic(30.0))
    assert sum(action.count for action in plan.actions if isinstance(action, Add)) == 1
    assert "within 3 of the 9 that models share (other 6) GPUs" in plan.text
    assert all((pool.within_limits or 0) == pool.wanted for pool in plan.pools)
    made.granted = Grant(0.0, 9.0, {"other": 9.0})
    made.tick(traffic(30.0))
    assert [made.count(role) for role in Role] == [1, 1]


RATES = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), min_size=3, max_size=10)


@settings(max_examples=10, deadline=None)
@given(RATES, st.integers(4, 20), st.floats(0.2, 5.0))
async def test_two_scalers_grow_at_once_within_one_budget(rates: list[tuple[float, float]], budget: int, weight: float):
    """The real ones, on paper, whatever is asked of either at the same time. And under a demand that both could use all for, none is below
    its minimum, and all comes to be used: what moves from one to the other is nobody's for a round."""
    terms = {"a": Terms(2.0, 1.0), "b": Terms(2.0, 1.0, weight)}
    book, clock_s = Ledger.opened(float(budget), terms, {}), 0.0
    models: dict[str, Paper] = {name: paper(BatonScaler(limits(most=20), policy(shrink_after_s=20.0))) for name in terms}

    def claims_of(name: str) -> BudgetClaims:
        async def ask(claim: Claim) -> Grant:
            nonlocal book
            book, grant = book.claimed(name, claim)
            return grant

        return BudgetClaims(ask, {P: 1.0, D: 1.0}, float(budget), clock=lambda: clock_s)

    claims, totals = {name: claims_of(name) for name in terms}, list[int]()
    for pair in [*rates, *[(60.0, 60.0)] * 8]:
        clock_s += 10.0
        for name, made in models.items():  # both know their grants before either acts on its own
            made.granted = await claims[name].granted(made.workers.values(), made.plans[-1] if made.plans else None)
        for rate, made in zip(pair, models.values(), strict=True):
            made.tick(traffic(rate))
        totals.append(sum(len(made.workers) for made in models.values()))
    assert max(totals) <= budget
    assert max(totals[-8:]) == budget
    assert all(made.count(role) >= 1 for made in models.values() for role in Role)
