"""The balancer's term for LoRA adapters: what a load costs, who it is spared, and that affinity overloads nobody."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replace_fields

from benchmarks.adapters import POLICIES, replayed, with_adapters
from core.ids import RequestId, WorkerId
from core.worker import AdapterLoad, WorkerLoad
from router.balancer.adapter_load import Loading, holders, loading, no_slot
from router.balancer.balancer import Balancer
from router.plan import Ask, Plan, Scored, WorkerView
from router.prefix.adapter_promises import AdapterPromises
from simulation.traces import synthetic
from tests.unit.test_joint import D0, D1, P0, P1, busy_decode, busy_prefill, cluster, joint, seen

LOAD_S = 0.4
W = WorkerId("d0")


def load(*names: str, in_use: int = 0, slots: int = 2) -> dict[str, Any]:
    held = AdapterLoad(names, in_use, slots, LOAD_S)
    return {"load": WorkerLoad(free_blocks=10_000, num_blocks=10_000, adapters=held)}


def ask(adapter: str | None = "poet", **more: Any) -> Ask:
    return Ask(RequestId("r"), 1000, 1000, True, now_s=50.0, expected_tokens=100.0, adapter=adapter, **more)


def taken(question: Ask, workers: Mapping[WorkerId, WorkerView]) -> Plan:
    decision = Balancer(joint()).choose(question, workers)
    assert decision.chosen is not None
    return decision.chosen.plan


def price(plan: Plan, question: Ask, workers: Mapping[WorkerId, WorkerView], **policy: Any) -> Scored:
    return joint(**policy).score(question, [plan], workers)[0]


@pytest.mark.parametrize(
    ("worker", "question", "expected"),
    [
        pytest.param(load("a"), ask(), Loading(LOAD_S), id="a free slot"),
        pytest.param(load("a", "b"), ask(), Loading(LOAD_S, LOAD_S), id="another one has to go"),
        pytest.param({**load("a"), **busy_decode(3)}, ask(), Loading(LOAD_S, 3 * LOAD_S), id="three decode there, and stand still"),
        pytest.param(load("a", "poet"), ask(), Loading(), id="it is there"),
        pytest.param(load("a"), ask(adapter_promised={W}), Loading(), id="it is on its way"),
        pytest.param(load("a"), ask(None), Loading(), id="none is asked for"),
        pytest.param({}, ask(), Loading(), id="the worker tells nothing of adapters"),
    ],
)
def test_what_a_load_costs(worker: dict[str, Any], question: Ask, expected: Loading) -> None:
    """Its time for the request, as much for everybody that it holds up, and once more where another adapter goes for it."""
    assert loading(question, W, seen("d0", **worker)) == expected


@pytest.mark.parametrize(
    ("worker", "question", "possible"),
    [
        pytest.param(load("a", "b", in_use=2), ask(), False, id="all in use"),
        pytest.param(load("a", "b", in_use=1), ask(), True, id="one can go"),
        pytest.param(load("a", "poet", in_use=2), ask(), True, id="its own is one of them"),
        pytest.param(load("a", "b", in_use=2), ask(adapter_promised={W}), True, id="its own will be, by what was sent"),
        pytest.param(load("a", "b", in_use=2), ask(None), True, id="none is asked for"),
    ],
)
def test_who_has_no_slot(worker: dict[str, Any], question: Ask, possible: bool) -> None:
    """A worker all whose slots are in use is offered nothing that needs another one."""
    assert (no_slot(question, seen("d0", **worker)) is None) is possible


def test_both_sides_pay_for_their_loads() -> None:
    """Prefill's is before the first token, decode's behind it; with both loaded there is none. What is left out costs nothing."""
    here, there = load("poet"), load("a")
    terms = {}
    for name, (p0, d0) in {"none": (here, here), "prefill": (there, here), "decode": (here, there), "both": (there, there)}.items():
        priced = price(Plan(P0, D0), ask(), cluster("p0", "d0", p0=p0, d0=d0))
        terms[name] = (priced.terms["load"], priced.ttft_s, priced.tpot_s)
    ttft_s, tpot_s = terms["none"][1:]
    assert ttft_s is not None
    assert tpot_s is not None
    assert terms["none"][0] == 0.0
    assert terms["prefill"] == pytest.approx((LOAD_S, ttft_s + LOAD_S, tpot_s))
    assert terms["decode"] == pytest.approx((LOAD_S, ttft_s, tpot_s + LOAD_S / 100))
    assert terms["both"] == pytest.approx((2 * LOAD_S, ttft_s + LOAD_S, tpot_s + LOAD_S / 100))
    left_out = price(Plan(P0, D0), ask(), cluster("p0", "d0", p0=there, d0=there), without=frozenset({"load"}))
    assert left_out.terms["load"] == 0.0
    assert left_out.ttft_s == pytest.approx(ttft_s)


def test_one_worker_for_all_loads_once() -> None:
    """Whoever computes the prompt and goes on has it by then."""
    assert price(Plan(D0, D0), ask(), cluster("d0", d0=load("a"))).terms["load"] == pytest.approx(LOAD_S)


def test_it_goes_where_its_adapter_is() -> None:
    """On both sides."""
    busy, sides = busy_decode(20), [(P0, D0), (P0, D1), (P1, D0), (P1, D1)]
    for prefill, decode in sides:
        held = {worker: load("poet" if worker in {prefill, decode} else "a") for worker in (P0, P1, D0, D1)}
        workers = cluster("p0", "p1", "d0", "d1", p0=held[P0], p1=held[P1], d0={**held[D0], **busy}, d1={**held[D1], **busy})
        assert taken(ask(), workers) == Plan(prefill, decode)


def test_affinity_overloads_nobody() -> None:
    """The worker that has it is taken as long as waiting for it is less than a load, and not longer."""
    for ahead_tokens, taker in ((2000, P1), (20_000, P0)):
        workers = cluster(
            "p0", "p1", "d0", p0=load("a"), p1={**load("poet"), **busy_prefill(ahead_tokens)}, d0={**load("poet"), **busy_decode(40)}
        )
        assert taken(ask(), workers).prefill == taker


def test_who_takes_no_adapters_is_not_asked() -> None:
    """While workers are replaced by such as do, there are both."""
    workers = cluster("p0", "p1", "d0", "d1")
    for name in (P0, D0):
        card = workers[name].card
        workers[name] = replace(workers[name], card=replace_fields(card, facts=replace_fields(card.facts, adapter_slots=0)))
    plan = taken(ask(), workers)
    assert {plan.prefill, plan.decode} <= {P1, D1}
    assert Balancer(joint()).choose(ask(), workers).rejected == {P0: "it takes no adapters", D0: "it takes no adapters"}


def test_full_slots_are_waited_for() -> None:
    """As is all that is full: nobody falls back on one worker, or computes a prompt anew, because others have all slots of a pool."""
    full = load("a", "b", in_use=2)
    workers = cluster("p0", "d0", p0=load("poet"), d0=full)
    assert Balancer(joint()).choose(ask(), workers).chosen is None
    assert Balancer(joint()).choose(ask(keeper=P0), workers).chosen is None
    assert taken(ask(keeper=P0), cluster("p0", "d0", p0=full, d0=load("poet"))) == Plan(P0, D0)


def test_of_a_large_pool_those_that_have_it_are_looked_at() -> None:
    """Chance would hardly find two of five hundred."""
    names = [f"d{number}" for number in range(500)]
    workers = cluster(*names, **{name: load("a") for name in names})
    for name in ("d123", "d321"):
        workers[WorkerId(name)] = replace(workers[WorkerId(name)], **load("poet"))
    assert sorted(holders(ask(), workers)) == ["d123", "d321"]
    for seed in range(5):
        decision = Balancer(joint(seed=seed), random.Random(seed)).choose(ask(), workers)
        assert decision.chosen is not None
        assert decision.chosen.plan.decode in {"d123", "d321"}


# -- promises ----------------------------------------------------------------------------------------------------------

NAMES, WORKERS = st.sampled_from("ab"), st.sampled_from([P0, P1])
STEPS = st.lists(st.tuples(st.sampled_from(["made", "broken", "forget"]), NAMES, WORKERS, st.floats(0.0, 4.0)), max_size=30)


@given(STEPS)
def test_a_promise_holds_for_a_while(steps: list[tuple[str, str, WorkerId, float]]) -> None:
    """From when something was sent until it is refused, the worker is gone, or time is up."""
    promises, model, now = AdapterPromises(5.0), dict[tuple[str, WorkerId], float](), 0.0
    for what, name, worker, pause_s in steps:
        now += pause_s
        if what == "made":
            promises.made(worker, name, now)
            model[name, worker] = now + 5.0
        elif what == "broken":
            promises.broken(worker, name)
            model.pop((name, worker), None)
        else:
            promises.forget(worker)
            model = {key: until_s for key, until_s in model.items() if key[1] != worker}
        for asked in "ab":
            assert promises.of(asked, now) == {worker for (name, worker), until_s in model.items() if name == asked and until_s > now}


def test_the_load_crosses_the_wire() -> None:
    """Routers read what workers tell."""
    told = WorkerLoad(adapters=AdapterLoad(("a", "b"), 1, 2, 0.1))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=WorkerLoad) == told


# -- at scale ----------------------------------------------------------------------------------------------------------


def test_in_a_simulated_cluster_adapters_settle() -> None:
    """Every answer is complete, with or without the term; with it a small part of the loads is made, by many workers."""
    rng = random.Random(3)
    trace = with_adapters(synthetic(rng, requests=300, rate=30.0, prompt_tokens=800, output_tokens=40), 20, rng)
    loads = {}
    for name in ("baton", "baton without `load`"):
        records, loads[name] = replayed(POLICIES[name], trace, workers=8, slots=4, load_s=0.2, seed=1)
        assert all(record.is_complete for record in records)
    assert sum(loads["baton"]) < sum(loads["baton without `load`"]) / 2
    assert sum(count > 0 for count in loads["baton"]) >= 6
