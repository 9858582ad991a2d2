"""Which plans are possible, why the rest is not, and which one each policy takes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.ids import Epoch, RequestId, WorkerId
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState
from router.balancer.balancer import Balancer
from router.balancer.candidates import candidates
from router.balancer.policies import LeastOutstandingTokens, Random, RoundRobin
from router.balancer.registry import make_policy
from router.plan import Ask, Plan, WorkerView

READY, DRAINING = WorkerState.READY, WorkerState.DRAINING
FACTS = EngineFacts(16, 64, 1024, 8, 512)
P0, P1, D0, D1, D2 = (WorkerId(name) for name in ("p0", "p1", "d0", "d1", "d2"))


def seen(name: str, state: WorkerState = READY, prefill: int = 0, decode: int = 0) -> WorkerView:
    role = Role.PREFILL if name.startswith("p") else Role.DECODE
    card = WorkerCard(WorkerId(name), Epoch(1), role, state, "tcp://h:1", "k", FACTS)
    return WorkerView(card, WorkerLoad(), prefill, decode)


def view(*names: str, **changed: WorkerView) -> dict[WorkerId, WorkerView]:
    return {WorkerId(name): changed.get(name, seen(name)) for name in names}


def ask(
    splittable: bool = True,
    prompt_tokens: int = 20,
    excluded: frozenset[WorkerId] = frozenset(),
    keeper: WorkerId | None = None,
    urgent: bool = False,
) -> Ask:
    return Ask(RequestId("r"), prompt_tokens, 10, splittable, excluded, keeper, urgent)


GONE = {"p0": seen("p0", DRAINING)}
FULL_P0 = {"p0": replace(seen("p0"), refused="it refused: full")}
FULL_D0 = {"d0": replace(seen("d0"), refused="it refused: full")}
POSSIBLE: dict[str, tuple[Ask, dict[WorkerId, WorkerView], list[tuple[str, str]], str]] = {
    "every pair": (
        ask(),
        view("p0", "p1", "d0", "d1"),
        [("p0", "d0"), ("p0", "d1"), ("p1", "d0"), ("p1", "d1")],
        "split over two workers",
    ),
    "not to be split": (ask(splittable=False), view("p0", "p1", "d0"), [("p0", "p0"), ("p1", "p1")], "one worker: cannot be split"),
    "not to be split, no prefill worker": (ask(splittable=False), view("d0"), [("d0", "d0")], "one worker: cannot be split"),
    "no decode worker": (ask(), view("p0", "p1"), [("p0", "p0"), ("p1", "p1")], "one worker: no decode worker is ready"),
    "no prefill worker": (ask(), view("d0", "d1"), [("d0", "d0"), ("d1", "d1")], "one worker: no prefill worker is ready"),
    "one draining": (ask(), view("p0", "p1", "d0", **GONE), [("p1", "d0")], "split over two workers"),
    "the only prefill worker draining": (ask(), view("p0", "d0", **GONE), [("d0", "d0")], "one worker: no prefill worker is ready"),
    "one excluded": (ask(excluded=frozenset({D0})), view("p0", "d0", "d1"), [("p0", "d1")], "split over two workers"),
    "a pool excluded": (ask(excluded=frozenset({D0})), view("p0", "d0"), [("p0", "p0")], "one worker: no decode worker is ready"),
    "all excluded": (ask(excluded=frozenset({P0, D0})), view("p0", "d0"), [], ""),
    "nobody": (ask(), {}, [], ""),
    "the prompt is computed": (
        ask(keeper=P0),
        view("p0", "p1", "d0", "d1"),
        [("p0", "d0"), ("p0", "d1")],
        "the prompt is computed already",
    ),
    "the prompt is computed, nobody decodes": (
        ask(keeper=P0),
        view("p0", "p1"),
        [("p0", "p0"), ("p1", "p1")],
        "one worker: no decode worker is ready",
    ),
    "urgent: a decode worker alone is as good": (
        ask(urgent=True),
        view("p0", "d0", "d1"),
        [("p0", "d0"), ("p0", "d1"), ("d0", "d0"), ("d1", "d1")],
        "split, or alone where that is sooner",
    ),
    "urgent, prefill full": (ask(urgent=True), view("p0", "d0", **FULL_P0), [("d0", "d0")], "split, or alone where that is sooner"),
    "one prefill worker full": (ask(), view("p0", "p1", "d0", **FULL_P0), [("p1", "d0")], "split over two workers"),
    "one decode worker full": (ask(), view("p0", "d0", "d1", **FULL_D0), [("p0", "d1")], "split over two workers"),
    "a pool full: it is waited for": (ask(), view("p0", "d0", **FULL_D0), [], ""),
    "a pool full, the prompt is computed": (ask(keeper=P0), view("p0", "d0", **FULL_D0), [], ""),
    "not to be split, one full": (ask(splittable=False), view("p0", "p1", "d0", **FULL_P0), [("p1", "p1")], "one worker: cannot be split"),
    "too long for anybody": (ask(prompt_tokens=1024), view("p0", "d0"), [], ""),
    "just not too long": (ask(prompt_tokens=1023), view("p0", "d0"), [("p0", "d0")], "split over two workers"),
}


@pytest.mark.parametrize(("question", "workers", "pairs", "kind"), POSSIBLE.values(), ids=POSSIBLE.keys())
def test_candidates(question: Ask, workers: dict[WorkerId, WorkerView], pairs: list[tuple[str, str]], kind: str) -> None:
    """Plans as (prefill, decode), and in words of what kind they are."""
    plans, _, words = candidates(question, workers)
    assert plans == [Plan(WorkerId(prefill), WorkerId(decode)) for prefill, decode in pairs]
    assert words == kind or not plans


def test_whoever_is_in_no_plan_has_a_reason() -> None:
    """An operator can ask why a worker got nothing."""
    workers = view("p0", "p1", "d0", "d1", p0=seen("p0", DRAINING))
    _, rejected, _ = candidates(ask(excluded=frozenset({D0})), workers)
    assert rejected == {"p0": "draining", "d0": "refused this request or was lost under it"}
    _, rejected, _ = candidates(ask(prompt_tokens=5000), view("p0"))
    assert rejected == {"p0": "its KV cache has room for 1024 tokens only"}


def test_without_a_candidate_nothing_is_chosen() -> None:
    """And the decision says why."""
    decision = Balancer(RoundRobin()).choose(ask(excluded=frozenset({P0})), view("p0"))
    assert (decision.chosen, list(decision.candidates), decision.reason) == (None, [], "no worker can take it")
    assert list(decision.rejected) == ["p0"]


def chosen(balancer: Balancer, workers: dict[WorkerId, WorkerView], times: int) -> list[tuple[str, str]]:
    plans = []
    for _ in range(times):
        decision = balancer.choose(ask(), workers)
        assert decision.chosen is not None
        assert decision.chosen in decision.candidates
        assert decision.chosen.cost == min(candidate.cost for candidate in decision.candidates)
        plans.append((str(decision.chosen.plan.prefill), str(decision.chosen.plan.decode)))
    return plans


@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (2, 2), (2, 3), (3, 2), (1, 4), (4, 4)])
def test_round_robin_gives_everyone_the_same(prefill: int, decode: int) -> None:
    """Each pool by itself, however uneven the pools are: no worker is behind another by more than one turn, at any time."""
    workers = view(*(f"p{number}" for number in range(prefill)), *(f"d{number}" for number in range(decode)))
    plans = chosen(Balancer(RoundRobin()), workers, 24)
    for side, count in ((0, prefill), (1, decode)):
        for turns in range(1, 25):
            had = Counter(plan[side] for plan in plans[:turns])
            assert max(had.values()) - (min(had.values()) if len(had) == count else 0) <= 1


def test_round_robin_takes_in_a_newcomer() -> None:
    """It has waited longest, and then waits like the others."""
    balancer = Balancer(RoundRobin())
    chosen(balancer, view("p0", "d0"), 5)
    assert [decode for _, decode in chosen(balancer, view("p0", "d0", "d1"), 4)] == ["d1", "d0", "d1", "d0"]


def test_random_starves_nobody_and_can_be_repeated() -> None:
    """All pairs come up about equally; the same seed gives the same plans."""
    workers = view("p0", "p1", "d0", "d1")
    plans = chosen(Balancer(Random(random.Random(1))), workers, 400)
    assert min(Counter(plans).values()) > 60
    assert plans == chosen(Balancer(Random(random.Random(1))), workers, 400)


BUSY: dict[str, tuple[dict[str, tuple[int, int]], tuple[str, str]]] = {
    "prefill by its prompt tokens": ({"p0": (10, 0), "p1": (9, 999), "d0": (0, 0), "d1": (0, 5)}, ("p1", "d0")),
    "decode by its context": ({"p0": (0, 0), "p1": (5, 0), "d0": (999, 10), "d1": (0, 11)}, ("p0", "d0")),
    "one token is enough": ({"p0": (1, 0), "p1": (0, 0), "d0": (0, 1), "d1": (0, 0)}, ("p1", "d1")),
}


@pytest.mark.parametrize(("work", "wanted"), BUSY.values(), ids=BUSY.keys())
def test_least_outstanding_tokens(work: dict[str, tuple[int, int]], wanted: tuple[str, str]) -> None:
    """Outstanding (prefill, decode) tokens per worker, and the pair taken, whatever the dice say."""
    workers = {WorkerId(name): seen(name, prefill=prefill, decode=decode) for name, (prefill, decode) in work.items()}
    for seed in range(20):
        assert chosen(Balancer(LeastOutstandingTokens(random.Random(seed))), workers, 1) == [wanted]


def test_least_outstanding_tokens_breaks_ties_at_random() -> None:
    """Many idle routers must not all start with the same worker."""
    workers = view("p0", "p1", "d0", "d1")
    assert len({chosen(Balancer(LeastOutstandingTokens(random.Random(seed))), workers, 1)[0] for seed in range(40)}) == 4


@pytest.mark.parametrize(
    ("name", "kind"), [("random", Random), ("round_robin", RoundRobin), ("least_outstanding_tokens", LeastOutstandingTokens)]
)
def test_policies_have_names(name: str, kind: type[Any]) -> None:
    """Those the configuration takes."""
    assert type(make_policy(name, random.Random(0))) is kind


def test_an_unknown_policy_lists_the_known() -> None:
    """And names the field."""
    with pytest.raises(ConfigError, match=r"router.policy: unknown policy 'best'; known: least_outstanding_tokens, random, round_robin"):
        make_policy("best", random.Random(0))


Workers = st.dictionaries(
    st.sampled_from(["p0", "p1", "p2", "d0", "d1", "d2"]),
    st.tuples(st.sampled_from([READY, DRAINING]), st.integers(0, 9), st.integers(0, 9)),
)


@given(
    Workers,
    st.booleans(),
    st.sets(st.sampled_from(["p0", "d0", "x"])),
    st.sampled_from(["random", "round_robin", "least_outstanding_tokens"]),
)
def test_every_policy_takes_a_fit_worker_whenever_there_is_one(
    workers: dict[str, tuple[WorkerState, int, int]], splittable: bool, excluded: set[str], policy: str
) -> None:
    """And never an excluded or draining one; every worker is in a plan, rejected with a reason, or of the pool not asked."""
    given_view = {WorkerId(name): seen(name, *rest) for name, rest in workers.items()}
    decision = Balancer(make_policy(policy, random.Random(0))).choose(
        ask(splittable, excluded=frozenset(map(WorkerId, excluded))), given_view
    )
    fit = {name for name, (state, _, _) in workers.items() if state is READY and name not in excluded}
    assert decision.rejected.keys() == workers.keys() - fit
    assert (decision.chosen is not None) == bool(fit)
    if decision.chosen is not None:
        assert {decision.chosen.plan.prefill, decision.chosen.plan.decode} <= fit
        assert decision.chosen.plan.is_split == (splittable and {name[0] for name in fit} == {"p", "d"})
