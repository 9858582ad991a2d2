"""Which plan each policy takes, on views small enough to work its rule out by hand."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.ids import Epoch, RequestId, WorkerId
from core.router_config import RouterConfig
from core.step_model import StepModel
from core.worker import EngineFacts, OthersLoad, Role, WorkerCard, WorkerLoad, WorkerState
from router.balancer.balancer import Balancer
from router.balancer.base import Policy
from router.balancer.candidates import Alone, candidates
from router.balancer.dynamo_kv import DynamoKv, DynamoKvConditional
from router.balancer.least_outstanding_tokens import LeastOutstandingTokens
from router.balancer.llmd_decode_first import LlmdDecodeFirst
from router.balancer.mooncake_ttft import MooncakeTtft, queue_to_prefill_s
from router.balancer.power_of_two import PowerOfTwo
from router.balancer.random_choice import Random
from router.balancer.registry import POLICIES, make_policy
from router.balancer.round_robin import RoundRobin
from router.balancer.sglang_cache_aware import SglangCacheAware
from router.plan import Ask, Books, Plan, View, WorkerView
from router.predict.links import LinkModel

READY, DRAINING = WorkerState.READY, WorkerState.DRAINING
FACTS = EngineFacts(16, 1_000_000, 100_000, 512, 2048)
STEP = StepModel(prefill_token_s=0.001, decode_base_s=0.01, decode_request_s=0.001, decode_context_s=0.000_001)
"""A millisecond per prompt token; ten per step, and a bit for each request and its context."""


class Foreseen:
    """Predictions: every worker keeps to ``STEP``, every transfer is instant."""

    kv_bytes_per_token = 1.0

    def step_model(self, seen: WorkerView) -> StepModel:
        return STEP

    def link(self, prefill: WorkerId, decode: WorkerId) -> LinkModel:
        return LinkModel(0.0, math.inf)

    def ttft_late_s(self, role: Role, promised_s: float) -> float:
        return 0.0

    def slower_alone(self, role: Role, ratio: float, now: float) -> tuple[int, int]:
        return 0, 0


def seen(
    name: str,
    state: WorkerState = READY,
    *,
    prompts: int = 0,
    uncached: int | None = None,
    held: int = 0,
    decoding: int = 0,
    legs: int = 0,
    others: OthersLoad | None = None,
) -> WorkerView:
    """A worker with so many prompt tokens ahead, tokens held by those that decode, and legs; roles by the first letter."""
    role = Role.PREFILL if name.startswith("p") else Role.DECODE
    card = WorkerCard(WorkerId(name), Epoch(1), role, state, "tcp://h:1", "k", FACTS)
    ahead = prompts if uncached is None else uncached
    books = Books(uncached_tokens=ahead, decoding=decoding, context_tokens=held)
    load = WorkerLoad(free_blocks=1_000_000, num_blocks=1_000_000, others=others or OthersLoad())
    return WorkerView(card, load, prompts, held, legs, books=books)


def view_of(*workers: WorkerView) -> dict[WorkerId, WorkerView]:
    return {worker.card.worker: worker for worker in workers}


def ask(prompt_tokens: int = 1000, hits: Mapping[str, int] | None = None, **more: Any) -> Ask:
    known = {WorkerId(name): tokens for name, tokens in (hits or {}).items()}
    return Ask(RequestId("r"), prompt_tokens, 100, more.pop("splittable", True), hits=known, **more)


def taken(policy: Policy, question: Ask, view: View) -> tuple[str, str]:
    balancer = Balancer(policy)
    decision = balancer.choose(question, view)
    assert decision.chosen is not None
    balancer.follow(question, decision.chosen)
    return str(decision.chosen.plan.prefill), str(decision.chosen.plan.decode)


def always(kind: type[Any], question: Ask, view: View, seeds: int = 20) -> tuple[str, str]:
    """What the policy takes whatever the dice say."""
    plans = {taken(make(kind, seed), question, view) for seed in range(seeds)}
    assert len(plans) == 1, plans
    return plans.pop()


def make(kind: type[Any], seed: int) -> Policy:
    rng = random.Random(seed)
    policy: Policy = kind(rng, Foreseen()) if kind is MooncakeTtft else kind(rng)
    return policy


# ---------------------------------------------------------------- all of them


def test_names_are_those_of_the_configuration() -> None:
    """Whatever the configuration takes can be made."""
    assert set(POLICIES) == set(get_args(RouterConfig.model_fields["policy"].annotation))


def test_an_unknown_policy_lists_the_known() -> None:
    """And names the field."""
    with pytest.raises(ConfigError, match=r"router.policy: unknown policy 'best'; known: baton, dynamo_kv, .*, random, round_robin"):
        make_policy("best", random.Random(0), Foreseen())


Workers = st.dictionaries(
    st.sampled_from(["p0", "p1", "p2", "d0", "d1", "d2"]),
    st.tuples(st.sampled_from([READY, DRAINING]), st.integers(0, 9), st.integers(0, 9), st.integers(0, 40)),
)


@given(Workers, st.booleans(), st.booleans(), st.sets(st.sampled_from(["p0", "d0", "x"])), st.integers(0, 20), st.sampled_from(POLICIES))
def test_every_policy_takes_a_fit_worker_whenever_there_is_one(
    workers: dict[str, tuple[WorkerState, int, int, int]], splittable: bool, urgent: bool, excluded: set[str], hit: int, policy: str
) -> None:
    """And never an excluded or draining one; every worker is in a plan, rejected with a reason, or of the pool not asked."""
    view = view_of(
        *(seen(name, state, prompts=ahead, held=held, decoding=held, legs=legs) for name, (state, ahead, held, legs) in workers.items())
    )
    question = ask(20, {"p1": hit, "d1": hit}, splittable=splittable, urgent=urgent, excluded=frozenset(map(WorkerId, excluded)))
    chooser = make_policy(policy, random.Random(0), Foreseen())
    decision = Balancer(chooser).choose(question, view)
    fit = {name for name, (state, *_) in workers.items() if state is READY and name not in excluded}
    assert decision.rejected.keys() == workers.keys() - fit
    assert (decision.chosen is not None) == bool(fit)
    if decision.chosen is not None:
        assert {decision.chosen.plan.prefill, decision.chosen.plan.decode} <= fit
        assert decision.chosen.cost == min(candidate.cost for candidate in decision.candidates)
        if chooser.alone is Alone.NEVER and not urgent:
            assert decision.chosen.plan.is_split == (splittable and {name[0] for name in fit} == {"p", "d"})


ONE_BY_ONE = sorted(set(POLICIES) - {"baton", "least_outstanding_tokens"})


@given(Workers, st.integers(0, 20), st.integers(0, 1000), st.sampled_from(ONE_BY_ONE))
def test_looking_at_sums_is_as_good_as_looking_at_products(
    workers: dict[str, tuple[WorkerState, int, int, int]], hit: int, seed: int, policy: str
) -> None:
    """Rating each worker once leads to the plan that is best among all plans."""
    view = view_of(*(seen(name, prompts=ahead, held=held, decoding=held, legs=legs) for name, (_, ahead, held, legs) in workers.items()))
    question = ask(20, {"p1": hit, "d1": hit})
    few, all_of_them = (make_policy(policy, random.Random(seed), Foreseen()) for _ in range(2))
    possible = candidates(question, view, few.alone)
    if possible:
        decided, scored = few.decide(question, possible, view).scored, all_of_them.score(question, possible.plans(), view)
        assert min(decided, key=lambda one: one.cost) == min(scored, key=lambda one: one.cost)
        assert {one.plan for one in decided} <= {one.plan for one in scored}


@pytest.mark.parametrize("policy", POLICIES)
def test_ties_are_broken_at_random(policy: str) -> None:
    """Many idle routers must not all start with the same worker."""
    view = view_of(seen("p0"), seen("p1"), seen("d0"), seen("d1"))
    plans = {taken(make_policy(policy, random.Random(seed), Foreseen()), ask(), view) for seed in range(60)}
    assert len({prefill for prefill, _ in plans}) > 1
    assert len({decode for _, decode in plans}) > 1


@pytest.mark.parametrize("policy", ONE_BY_ONE)
def test_a_computed_prompt_stays_where_it_is(policy: str) -> None:
    """Only a decode worker is chosen then."""
    view = view_of(seen("p0", prompts=9000, legs=50), seen("p1"), seen("d0"), seen("d1"))
    assert taken(make_policy(policy, random.Random(0), Foreseen()), ask(keeper=WorkerId("p0")), view)[0] == "p0"


# ---------------------------------------------------------------- random, round robin


def test_random_starves_nobody_and_can_be_repeated() -> None:
    """All pairs come up about equally; the same seed gives the same plans."""
    view = view_of(seen("p0"), seen("p1"), seen("d0"), seen("d1"))

    def plans() -> list[tuple[str, str]]:
        policy = Random(random.Random(1))
        return [taken(policy, ask(), view) for _ in range(400)]

    assert min(Counter(plans()).values()) > 60
    assert plans() == plans()


@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (2, 2), (2, 3), (3, 2), (1, 4), (4, 4)])
def test_round_robin_gives_everyone_the_same(prefill: int, decode: int) -> None:
    """Each pool by itself, however uneven the pools are: no worker is behind another by more than one turn, at any time."""
    view = view_of(*(seen(f"p{number}") for number in range(prefill)), *(seen(f"d{number}") for number in range(decode)))
    policy = RoundRobin(random.Random(0))
    plans = [taken(policy, ask(), view) for _ in range(24)]
    for side, count in ((0, prefill), (1, decode)):
        for turns in range(1, 25):
            had = Counter(plan[side] for plan in plans[:turns])
            assert max(had.values()) - (min(had.values()) if len(had) == count else 0) <= 1


def test_round_robin_takes_in_a_newcomer() -> None:
    """It has waited longest, and then waits like the others."""
    policy = RoundRobin(random.Random(0))
    for _ in range(5):
        taken(policy, ask(), view_of(seen("p0"), seen("d0")))
    later = view_of(seen("p0"), seen("d0"), seen("d1"))
    assert [taken(policy, ask(), later)[1] for _ in range(4)] == ["d1", "d0", "d1", "d0"]


# ---------------------------------------------------------------- by outstanding tokens

BUSY: dict[str, tuple[Sequence[WorkerView], tuple[str, str]]] = {
    "prefill by its prompt tokens": (
        (seen("p0", prompts=10), seen("p1", prompts=9, held=999), seen("d0"), seen("d1", held=5)),
        ("p1", "d0"),
    ),
    "decode by its context": ((seen("p0"), seen("p1", prompts=5), seen("d0", prompts=999, held=10), seen("d1", held=11)), ("p0", "d0")),
    "one token is enough": ((seen("p0", prompts=1), seen("p1"), seen("d0", held=1), seen("d1")), ("p1", "d1")),
    "others' work counts": (
        (
            seen("p0", others=OthersLoad(legs=1, prompt_tokens=9)),
            seen("p1", prompts=8),
            seen("d0", others=OthersLoad(decoding=1, context_tokens=9)),
            seen("d1", held=8),
        ),
        ("p1", "d1"),
    ),
    "nobody to split with": ((seen("d0", prompts=10, held=1), seen("d1", prompts=1, held=9)), ("d1", "d1")),
}


@pytest.mark.parametrize(("workers", "wanted"), BUSY.values(), ids=BUSY.keys())
def test_least_outstanding_tokens(workers: Sequence[WorkerView], wanted: tuple[str, str]) -> None:
    """Prompt tokens ahead on the one, tokens held on the other; of all routers."""
    assert always(LeastOutstandingTokens, ask(), view_of(*workers)) == wanted


def test_power_of_two_takes_the_better_of_two() -> None:
    """Of two workers always the better one; of three the worst one never, the second one when it is drawn with the worst."""
    two = view_of(seen("p0", prompts=2), seen("p1", prompts=1), seen("d0", held=1), seen("d1", held=2))
    assert always(PowerOfTwo, ask(), two) == ("p1", "d0")
    three = view_of(seen("p0"), seen("d0", held=1), seen("d1", held=2), seen("d2", held=3))
    drawn = Counter(taken(PowerOfTwo(random.Random(seed)), ask(), three)[1] for seed in range(300))
    assert set(drawn) == {"d0", "d1"}
    assert 170 <= drawn["d0"] <= 230  # two draws of three have it


def test_power_of_two_alone() -> None:
    """Where one worker does all, prompts and contexts count together."""
    assert always(PowerOfTwo, ask(), view_of(seen("d0", prompts=5, held=5), seen("d1", prompts=8, held=1))) == ("d1", "d1")


# ---------------------------------------------------------------- SGLang

SGLANG: dict[str, tuple[Sequence[WorkerView], Mapping[str, int], str]] = {
    "cache first": ((seen("p0", legs=30), seen("p1")), {"p0": 600}, "p0"),
    "exactly half is not enough": ((seen("p0", legs=30), seen("p1")), {"p0": 500}, "p1"),
    "a difference of 32 is even": ((seen("p0", legs=32), seen("p1")), {"p0": 600}, "p0"),
    "one of 33 is not": ((seen("p0", legs=33), seen("p1")), {"p0": 600}, "p1"),
    "others' requests count": ((seen("p0", others=OthersLoad(legs=33)), seen("p1")), {"p0": 600}, "p1"),
    "nothing cached: the shortest queue": ((seen("p0", legs=3), seen("p1", legs=2)), {}, "p1"),
    "two have it: the less loaded": ((seen("p0", legs=3), seen("p1", legs=2), seen("p2")), {"p0": 600, "p1": 600}, "p1"),
    "the longest match of two": ((seen("p0", legs=3), seen("p1", legs=2)), {"p0": 700, "p1": 600}, "p0"),
}


@pytest.mark.parametrize(("pool", "hits", "wanted"), SGLANG.values(), ids=SGLANG.keys())
def test_sglang_cache_aware(pool: Sequence[WorkerView], hits: Mapping[str, int], wanted: str) -> None:
    """Tokens cached of a prompt of 1,000, requests there, and the prefill worker taken; alone it is the same rule."""
    assert always(SglangCacheAware, ask(hits=hits), view_of(*pool, seen("d0")))[0] == wanted
    assert always(SglangCacheAware, ask(hits=hits), view_of(*pool)) == (wanted, wanted)


def test_sglang_decode_is_the_better_of_two() -> None:
    """By requests, whatever the caches."""
    assert always(SglangCacheAware, ask(hits={"d0": 1000}), view_of(seen("p0"), seen("d0", legs=2), seen("d1", legs=1)))[1] == "d1"


# ---------------------------------------------------------------- llm-d

LLMD: dict[str, tuple[Sequence[WorkerView], Mapping[str, int], tuple[str, str]]] = {
    # Scores are 2 * prefix + load; load is 1 when idle, else (most - own) / most.
    "idle, nothing cached: split": ((seen("p0"), seen("d0")), {}, ("p0", "d0")),
    "the decode worker has all but 16": ((seen("p0"), seen("d0")), {"d0": 984}, ("p0", "d0")),
    "it has all but 15: it does the rest": ((seen("p0"), seen("d0")), {"d0": 985}, ("d0", "d0")),
    "cache outweighs load: 1.2 + 0 against 0 + 1": ((seen("p0"), seen("d0", legs=9), seen("d1")), {"d0": 600}, ("p0", "d0")),
    "load outweighs cache: 0.8 + 0 against 0 + 1": ((seen("p0"), seen("d0", legs=9), seen("d1")), {"d0": 400}, ("p0", "d1")),
    "and in between: 0.8 + 0.5 against 0 + 1": (
        (seen("p0"), seen("d0", legs=4), seen("d1"), seen("d2", legs=8)),
        {"d0": 400},
        ("p0", "d0"),
    ),
    "the prefill worker likewise": ((seen("p0", legs=9), seen("p1"), seen("d0")), {"p0": 600}, ("p0", "d0")),
    "where a prefill worker has it does not matter": ((seen("p0"), seen("d0")), {"p0": 1000}, ("p0", "d0")),
    "nobody to split with": ((seen("d0", legs=1), seen("d1")), {}, ("d1", "d1")),
}


@pytest.mark.parametrize(("workers", "hits", "wanted"), LLMD.values(), ids=LLMD.keys())
def test_llmd_decode_first(workers: Sequence[WorkerView], hits: Mapping[str, int], wanted: tuple[str, str]) -> None:
    """Tokens cached of a prompt of 1,000, and the plan taken."""
    assert always(LlmdDecodeFirst, ask(hits=hits), view_of(*workers)) == wanted


# ---------------------------------------------------------------- Dynamo

DYNAMO: dict[str, tuple[Sequence[WorkerView], Mapping[str, int], tuple[str, str]]] = {
    # Blocks are 16 tokens, the prompt is 1,600: 100 blocks. Prefill: max(0, ahead + 100 - hit) + held + 100; decode: held + 100.
    "the least to compute and to hold": (
        (seen("p0", prompts=32), seen("p1", prompts=16), seen("d0", held=16), seen("d1")),
        {},
        ("p1", "d1"),
    ),
    # p0: 40 + 100 - 80 + 40 = 100; p1: 100. A prompt ahead counts twice, to compute and to hold, so 50 blocks of hit balance 25.
    "a hit is worth its blocks": ((seen("p0", prompts=640), seen("p1"), seen("d0")), {"p0": 1296}, ("p0", "d0")),
    "and not more": ((seen("p0", prompts=640), seen("p1"), seen("d0")), {"p0": 1264}, ("p1", "d0")),
    "cached prompts ahead are held only": (
        (seen("p0", prompts=640, uncached=0), seen("p1", prompts=336), seen("d0")),
        {},
        ("p0", "d0"),
    ),
    "decode by load alone": ((seen("p0"), seen("d0", held=16), seen("d1")), {"d0": 1600}, ("p0", "d1")),
    # d0: 100 - 50 + 60 held = 110; d1: 100 + 20 held = 120.
    "nobody to split with": ((seen("d0", held=960), seen("d1", held=320)), {"d0": 800}, ("d0", "d0")),
    "others' work counts": (
        (seen("p0", others=OthersLoad(legs=1, prompt_tokens=64)), seen("p1", prompts=32), seen("d0")),
        {},
        ("p1", "d0"),
    ),
}


@pytest.mark.parametrize(("workers", "hits", "wanted"), DYNAMO.values(), ids=DYNAMO.keys())
def test_dynamo_kv(workers: Sequence[WorkerView], hits: Mapping[str, int], wanted: tuple[str, str]) -> None:
    """Tokens cached of a prompt of 1,600, and the plan taken."""
    assert always(DynamoKv, ask(1600, hits), view_of(*workers)) == wanted


CONDITIONAL: dict[str, tuple[int, Mapping[str, int], tuple[str, str]]] = {
    "nothing cached": (1600, {}, ("p0", "d0")),
    "too little of it": (1600, {"d0": 480}, ("p0", "d0")),  # 1,120 left are 0.7 of it
    "enough of it": (1600, {"d0": 481}, ("d0", "d0")),
    "too much left": (20_000, {"d0": 20_000 - 2048}, ("p0", "d0")),
    "little enough left": (20_000, {"d0": 20_000 - 2047}, ("d0", "d0")),
    "what prefill has does not matter": (1600, {"p0": 1600}, ("p0", "d0")),
}


@pytest.mark.parametrize(("prompt_tokens", "hits", "wanted"), CONDITIONAL.values(), ids=CONDITIONAL.keys())
def test_dynamo_kv_conditional(prompt_tokens: int, hits: Mapping[str, int], wanted: tuple[str, str]) -> None:
    """Below 2,048 uncached tokens that are also less than 0.7 of the prompt, the decode worker computes them."""
    assert always(DynamoKvConditional, ask(prompt_tokens, hits), view_of(seen("p0"), seen("d0"))) == wanted


def test_dynamo_kv_conditional_prefers_a_decode_worker_that_knows_the_prompt() -> None:
    """By the blocks it has of it, as long as they are more than it has to hold beyond the others; and the shortcut is its alone."""
    busy = view_of(seen("p0"), seen("d0", held=640), seen("d1"))
    assert always(DynamoKvConditional, ask(1600, {"d0": 1296}), busy) == ("d0", "d0")
    assert always(DynamoKvConditional, ask(1600, {"d0": 624}), busy) == ("p0", "d1")
    assert always(DynamoKvConditional, ask(1600), view_of(seen("d0", held=640), seen("d1"))) == ("d1", "d1")


# ---------------------------------------------------------------- Mooncake

MOONCAKE: dict[str, tuple[Sequence[WorkerView], Mapping[str, int], tuple[str, str]]] = {
    # A prompt of 1,000 takes a second; a step takes 10 ms, 1 more per request, 1 more per 1,000 tokens of context.
    "the shortest queue": ((seen("p0", prompts=300), seen("p1", prompts=200), seen("d0")), {}, ("p1", "d0")),
    "a hit worth its queue": ((seen("p0", prompts=300), seen("p1"), seen("d0")), {"p0": 301}, ("p0", "d0")),
    "a hot prefix is computed again where nobody waits": ((seen("p0", prompts=300), seen("p1"), seen("d0")), {"p0": 299}, ("p1", "d0")),
    "cached prompts ahead take no time": ((seen("p0", prompts=900, uncached=0), seen("p1", prompts=1), seen("d0")), {}, ("p0", "d0")),
    "decode by the time between tokens": (
        (seen("p0"), seen("d0", decoding=1, held=9000), seen("d1", decoding=9, held=500)),
        {},
        ("p0", "d1"),
    ),
    "nobody to split with": ((seen("d0", prompts=300, decoding=1), seen("d1", prompts=200, decoding=9)), {}, ("d1", "d1")),
}


@pytest.mark.parametrize(("workers", "hits", "wanted"), MOONCAKE.values(), ids=MOONCAKE.keys())
def test_mooncake_ttft(workers: Sequence[WorkerView], hits: Mapping[str, int], wanted: tuple[str, str]) -> None:
    """Tokens cached of a prompt of 1,000, and the plan taken."""
    assert always(MooncakeTtft, ask(hits=hits), view_of(*workers)) == wanted


QUEUES: dict[str, tuple[Books, OthersLoad, float]] = {
    "nobody": (Books(), OthersLoad(), 0.0),
    # 3,000 tokens in two steps of 2,048: 2 * 0.5 + 3,000 * 0.001 + 5,000,000 * 1e-7.
    "two prompts, of which the first has just begun": (Books(2, 3000, 5_000_000, head_since_s=7.0, head_tokens=1000), OthersLoad(), 4.5),
    # The first takes 0.5 + 1 + 0.1.
    "a second later": (Books(2, 3000, 5_000_000, head_since_s=6.0, head_tokens=1000), OthersLoad(), 3.5),
    "the first takes longer than it should": (Books(2, 3000, 5_000_000, head_since_s=0.0, head_tokens=1000), OthersLoad(), 2.9),
    # Two prompts of 1,000: 0.5 + 2 + 0.2.
    "another router's, of whom one decodes": (Books(), OthersLoad(legs=3, prompt_tokens=2000, decoding=1), 2.7),
}


@pytest.mark.parametrize(("books", "others", "wanted_s"), QUEUES.values(), ids=QUEUES.keys())
def test_queue_to_prefill(books: Books, others: OthersLoad, wanted_s: float) -> None:
    """What is ahead, less what has been done of the first; at 7 s on the clock."""
    step = StepModel(prefill_base_s=0.5, prefill_token_s=0.001, prefill_square_s=1e-7)
    worker = WorkerView(seen("p0").card, WorkerLoad(others=others), books=books)
    assert queue_to_prefill_s(worker, step, 7.0) == pytest.approx(wanted_s)


def test_a_plan_names_both_workers_it_is_for() -> None:
    """What is written down of a decision says what each rule saw."""
    policy = DynamoKv(random.Random(0))
    scored = policy.score(ask(1600), [Plan(WorkerId("p0"), WorkerId("d0"))], view_of(seen("p0"), seen("d0", held=160)))
    assert [one.reason for one in scored] == ["100 blocks to compute + 100 to hold; 110 blocks to hold"]
