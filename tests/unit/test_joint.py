"""Baton's own policy: what a plan costs, on hand-made clusters with known step times."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from core.ids import Epoch, RequestId, WorkerId
from core.step_model import StepModel
from core.worker import AdapterLoad, EngineFacts, OthersLoad, Role, WorkerCard, WorkerLoad, WorkerState
from router.arrivals import Arrival
from router.balancer.balancer import Balancer
from router.balancer.candidates import candidates
from router.balancer.joint import Joint
from router.balancer.pricing import SWITCHES
from router.plan import Ask, Books, Plan, Scored, WorkerView
from router.predict.links import LinkModel

FACTS = EngineFacts(
    block_size_tokens=16, num_blocks=10_000, max_model_len=100_000, max_num_seqs=64, max_num_batched_tokens=1000, adapter_slots=2
)
MODEL = StepModel(prefill_base_s=0.01, prefill_token_s=1e-4, decode_base_s=0.01, decode_request_s=1e-4, decode_context_s=1e-8)
P0, P1, D0, D1 = (WorkerId(name) for name in ("p0", "p1", "d0", "d1"))
ALL = ("p0", "p1", "d0", "d1")


class Known:
    """Predictions that are given: all workers are alike, and a link moves 1 GB/s."""

    kv_bytes_per_token = 100_000.0

    def __init__(self, bytes_per_s: float = 1e9, slower: tuple[int, int] = (0, 0)) -> None:
        self.bytes_per_s = bytes_per_s
        self.slower = slower

    def step_model(self, seen: WorkerView) -> StepModel:
        return MODEL

    def link(self, prefill: WorkerId, decode: WorkerId) -> LinkModel:
        return LinkModel(0.0, self.bytes_per_s)

    def ttft_late_s(self, role: Role, promised_s: float) -> float:
        return 0.0

    def slower_alone(self, role: Role, ratio: float, now: float) -> tuple[int, int]:
        return self.slower


def seen(name: str, **changed: Any) -> WorkerView:
    role = Role.PREFILL if name.startswith("p") else Role.DECODE
    card = WorkerCard(WorkerId(name), Epoch(1), role, WorkerState.READY, "tcp://h:1", "k", FACTS)
    return replace(WorkerView(card, WorkerLoad(free_blocks=10_000, num_blocks=10_000)), **changed)


def cluster(*names: str, **changed: dict[str, Any]) -> dict[WorkerId, WorkerView]:
    return {WorkerId(name): seen(name, **changed.get(name, {})) for name in names}


def ask(prompt_tokens: int = 1000, expected_tokens: float = 100.0, **more: Any) -> Ask:
    return Ask(RequestId("r"), prompt_tokens, 1000, True, now_s=50.0, expected_tokens=expected_tokens, **more)


def joint(without: frozenset[str] = frozenset(), predictions: Known | None = None, seed: int = 1) -> Joint:
    return Joint(predictions or Known(), random.Random(seed), without)


def taken(question: Ask, workers: dict[WorkerId, WorkerView], policy: Joint | None = None) -> Plan:
    decision = Balancer(policy or joint()).choose(question, workers)
    assert decision.chosen is not None
    return decision.chosen.plan


def price(plan: Plan, question: Ask, workers: dict[WorkerId, WorkerView], policy: Joint | None = None) -> Scored:
    return (policy or joint()).score(question, [plan], workers)[0]


def busy_decode(batch: int, context: int = 1000) -> dict[str, Any]:
    return {"books": Books(decoding=batch, context_tokens=batch * context, finishes_s=(1e9,) * batch), "legs": batch}


def busy_prefill(tokens: int, since_s: float = 50.0) -> dict[str, Any]:
    return {
        "books": Books(unanswered=1, uncached_tokens=tokens, head_tokens=tokens, head_since_s=since_s),
        "outstanding_prefill_tokens": tokens,
        "legs": 1,
    }


def test_every_term_is_what_it_says() -> None:
    """One plan by hand: a prompt of 1,500 tokens, 500 of them cached on the prefill and 1,000 on the decode worker."""
    workers = cluster("p0", "d0", p0=busy_prefill(2000), d0=busy_decode(10))
    question = ask(1500, hits={P0: 500, D0: 1000}, waited_s=0.25)
    priced = price(Plan(P0, D0), question, workers)
    before_s, step_s = MODEL.decode_s(10, 10_000), MODEL.decode_s(11, 10_000 + 1550)
    assert priced.terms == pytest.approx(
        {
            "queue": 2 * 0.01 + 2000 * 1e-4,
            "load": 0.0,
            "prefill": 0.01 + 1000 * 1e-4,
            "transfer": 500 * 100_000 / 1e9,
            "admit": step_s / 2,
            "decode": 100 * step_s,
            "interference": 10 * 100 * (step_s - before_s),
            "misses": 0.0,
        }
    )
    assert priced.ttft_s == pytest.approx(0.25 + 0.22 + 0.11)
    assert priced.tpot_s == pytest.approx(step_s + (0.05 + step_s / 2) / 100)
    assert priced.cost == pytest.approx(sum(priced.terms.values()), abs=1e-5)


def test_what_is_done_of_the_first_prompt_is_known_by_the_clock() -> None:
    """Its share of the queue shrinks with time, down to nothing; what is behind it stays."""
    books = Books(unanswered=2, uncached_tokens=3000, head_tokens=1000, head_since_s=50.0)
    for now_s, left_s in ((50.0, 0.33), (50.05, 0.28), (51.0, 0.22)):
        workers = cluster("p0", "d0", p0={"books": books})
        assert price(Plan(P0, D0), replace(ask(), now_s=now_s), workers).terms["queue"] == pytest.approx(left_s)


CHOICES: dict[str, tuple[Ask, dict[WorkerId, WorkerView], set[tuple[str, str]]]] = {
    "the shorter queue": (
        ask(),
        cluster(*ALL, p0=busy_prefill(5000), d0=busy_decode(30), d1=busy_decode(30)),
        {("p1", "d0"), ("p1", "d1")},
    ),
    "busy decodes are not stalled for a long prompt": (
        ask(20_000),
        cluster(*ALL, p0=busy_decode(40), p1={"legs": 0}, d0=busy_decode(40), d1=busy_decode(30)),
        {("p1", "d1")},
    ),
    "idle everywhere, one worker is enough": (ask(), cluster(*ALL), {("d0", "d0"), ("d1", "d1")}),
    "the history is on a decode worker: it goes on there": (
        ask(20_000, hits={D1: 19_900}),
        cluster(*ALL, d0=busy_decode(5), d1=busy_decode(5)),
        {("d1", "d1")},
    ),
    "a cached prefix is worth a queue": (ask(20_000, hits={P0: 16_000}), cluster("p0", "p1", p0=busy_prefill(5000)), {("p0", "p0")}),
    "a hot prefix is computed anew elsewhere once the queue is longer": (
        ask(20_000, hits={P0: 16_000}),
        cluster("p0", "p1", p0=busy_prefill(30_000)),
        {("p1", "p1")},
    ),
    "what others have sent counts": (
        ask(),
        cluster("p0", "p1", p0={"load": WorkerLoad(free_blocks=10_000, num_blocks=10_000, others=OthersLoad(3, 50_000))}),
        {("p1", "p1")},
    ),
    "the prompt is computed: only decode is chosen": (ask(keeper=P0), cluster(*ALL, d0=busy_decode(30)), {("p0", "d1")}),
}


@pytest.mark.parametrize(("question", "workers", "plans"), CHOICES.values(), ids=CHOICES.keys())
def test_choices(question: Ask, workers: dict[WorkerId, WorkerView], plans: set[tuple[str, str]]) -> None:
    """Where a request goes, whatever the dice."""
    found = {taken(question, workers, joint(seed=seed)) for seed in range(20)}
    assert {(str(plan.prefill), str(plan.decode)) for plan in found} <= plans


def busy_pair() -> dict[WorkerId, WorkerView]:
    """Both prefill workers have long prompts ahead of them and one is free soon; decode workers run many."""
    return cluster(*ALL, p0=busy_prefill(500), p1=busy_prefill(500), d0=busy_decode(40), d1=busy_decode(40))


@pytest.mark.parametrize(("bytes_per_s", "split"), [(1e9, True), (1e6, False)])
def test_a_slow_link_is_not_used(bytes_per_s: float, split: bool) -> None:
    """Handing over pays where the prefill worker has more prompts to come, unless the link is slow."""
    policy = joint(predictions=Known(bytes_per_s))
    for _ in range(60):  # prompts keep coming to the prefill workers: who decodes there shares it with them
        for worker in (P0, P1):
            policy.chosen(ask(), Scored(Plan(worker, D0), 0.0, "", stall_s=0.5))
    workers = cluster(*ALL, d0=busy_decode(4), d1=busy_decode(4))
    question = ask(8000, 400.0, tpot_s=0.02)
    assert taken(question, workers, policy).is_split is split


def test_a_worker_that_is_gone_leaves_nothing_behind() -> None:
    """What it was given does not weigh on a worker that comes back under its name."""
    policy, other = joint(), joint()
    balancer = Balancer(policy, oracle=other)
    for _ in range(60):
        balancer.follow(ask(), Scored(Plan(P0, P0), 0.0, "", stall_s=0.5))
    workers = cluster("p0")
    busy = [price(Plan(P0, P0), ask(), workers, each).terms["decode"] for each in (policy, other)]
    balancer.forget(P0)
    idle = [price(Plan(P0, P0), ask(), workers, each).terms["decode"] for each in (policy, other)]
    assert min(busy) > 2 * max(idle)


def test_decode_load_counts_as_it_will_be() -> None:
    """The busier decode worker now is the idler one when the prompt is done: it is chosen, unless foresight is left out."""
    soon = Books(decoding=40, context_tokens=40_000, finishes_s=(50.5,) * 40)
    late = Books(decoding=20, context_tokens=20_000, finishes_s=(1e6,) * 20)
    workers = cluster(*ALL, d0={"books": soon, "legs": 40}, d1={"books": late, "legs": 20})
    question = ask(20_000, keeper=None)
    best = {
        name: min((D0, D1), key=lambda d: price(Plan(P0, d), question, workers, joint(without)).cost) for name, without in SIGHT.items()
    }
    assert best == {"with": D0, "without": D1}


SIGHT = {"with": frozenset[str](), "without": frozenset({"foresight"})}


def test_a_promise_is_worth_a_detour() -> None:
    """Without an objective the cheaper worker is taken though it is slow to the first token; with one, the one that keeps it."""
    workers = cluster("p0", "p1", p0=busy_prefill(8_000), p1=busy_decode(60))
    assert taken(ask(1000, 1000.0), workers) == Plan(P0, P0)
    assert taken(ask(1000, 1000.0, ttft_s=0.5), workers) == Plan(P1, P1)


def test_others_keep_their_promises() -> None:
    """A worker where many have little slack left gets no prompt to compute while another one's have plenty."""

    def with_slack(slack_s: float, token_slack_s: float = 0.0, of_five: int = 5) -> dict[str, Any]:
        token_slacks_s = (token_slack_s,) * 20 * of_five + (9.0,) * 20 * (5 - of_five)
        books = Books(decoding=20, context_tokens=20_000, finishes_s=(1e9,) * 20, slacks_s=(100.0 + slack_s,) * 100, stalled_s=100.0)
        books = replace(books, token_slacks_s=token_slacks_s)
        return {"books": books, "legs": 20}

    workers = cluster("d0", "d1", d0=with_slack(0.05), d1=with_slack(5.0))
    question = ask(1000, 10.0, tpot_s=0.1)
    priced = {d: price(Plan(d, d), question, workers) for d in (D0, D1)}
    assert [priced[d].breaks for d in (D0, D1)] == [20, 0]
    assert priced[D0].terms["misses"] > 20 * 25.0 > 1.0 > priced[D1].terms["misses"]
    assert taken(question, workers) == Plan(D1, D1)
    # In chunks that they can all bear it breaks nothing, unless somebody is to be handed over there: a chunk leaves no room to begin.
    workers = cluster("d0", d0=with_slack(0.05, token_slack_s=0.2))
    assert price(Plan(D0, D0), question, workers).breaks == 0
    short = cluster("d0", d0=with_slack(0.05, of_five=1))
    assert price(Plan(D0, D0), question, short).breaks == pytest.approx(20 / 5), "one of five likely lengths cannot bear it"
    expecting = replace(workers[D0], books=replace(workers[D0].books, handovers=1))
    assert price(Plan(D0, D0), question, {D0: expecting}).breaks == 20


def test_a_full_worker_is_waited_for() -> None:
    """Where a prefill worker will have room soon, a prompt waits rather than hold up answers elsewhere; not where it would be late."""
    full = {**busy_prefill(3000), "outstanding_prefill_tokens": 3000, "max_prefill_tokens": 3000}
    books = Books(decoding=20, context_tokens=20_000, finishes_s=(1e9,) * 20, slacks_s=(0.05,) * 100, token_slacks_s=(0.0,) * 100)
    busy = {"books": books, "legs": 20}
    workers = cluster("p0", "d0", p0=full, d0=busy)
    decision = Balancer(joint()).choose(ask(1000, tpot_s=0.1, ttft_s=5.0), workers)
    assert (decision.chosen, decision.reason) == (None, "waits for p0")
    idle = cluster("p0", "d0", p0=full)
    assert taken(ask(1000, tpot_s=0.1, ttft_s=5.0), idle) == Plan(D0, D0)


def test_handovers_to_come_are_held_up_by_a_prompt() -> None:
    """Where many are handed over, a prompt in chunks breaks promises of those that will come while it is computed."""
    workers = cluster(*ALL)
    question = ask(10_000, 100.0, likely_tokens=(50.0,) * 5, tpot_s=0.05)
    assert price(Plan(D0, D0), question, workers).breaks == 0
    policy = joint()
    for _ in range(40):
        policy.chosen(ask(), Scored(Plan(P0, D0), 0.0, ""))
    assert price(Plan(D0, D0), question, workers, policy).breaks > 1


def test_others_requests_are_held_up_by_a_prompt() -> None:
    """Whom other routers hand over, and who decodes for them where this one has nobody: as many of them as of requests like this one."""
    question = ask(10_000, 100.0, likely_tokens=(5.0, 5.0, 50.0, 500.0, 500.0), tpot_s=0.05)

    def breaks(others: OthersLoad, own: int = 0) -> float:
        load = WorkerLoad(free_blocks=10_000, num_blocks=10_000, others=others)
        books = Books(decoding=own, context_tokens=100 * own, finishes_s=(1e9,) * own, slacks_s=(9.0,) * 5 * own)
        return price(Plan(D0, D0), question, cluster("p0", "d0", d0={"load": load, "books": books})).breaks

    assert breaks(OthersLoad()) == 0
    some = breaks(OthersLoad(legs=10, decoding=10, context_tokens=1000))
    assert some == pytest.approx(10 * 1 / 5), "those of 5 tokens bear not even their hand-over, those of 500 bear the prompt"
    assert breaks(OthersLoad(legs=15, decoding=10, context_tokens=1000, arriving_tokens=500)) == pytest.approx(15 * 1 / 5)
    assert breaks(OthersLoad(legs=15, decoding=10, context_tokens=1000, arriving_tokens=500), own=2) == pytest.approx(5 * 1 / 5)


def test_a_port_takes_one_after_the_other() -> None:
    """KV waits behind what others pull there, so it goes where that is less; what is ready behind it does not hold it up."""
    question = ask(1000, 20.0, likely_tokens=(20.0,) * 5, tpot_s=0.05)
    in_s = price(Plan(P0, D0), question, cluster(*ALL)).prompt_s
    arrivals = [Arrival(49.9, 0.3, True), Arrival(50.0 + in_s / 2, 0.2, False), Arrival(51.0, 5.0, False)]
    workers = cluster(*ALL, d0={"books": Books(decoding=3, handovers=3, arrivals=arrivals)})
    waits, free = (price(Plan(P0, decode), question, workers) for decode in (D0, D1))
    assert waits.moves_s == free.moves_s == pytest.approx(0.1), "100 MB at 1 GB/s"
    assert waits.terms["transfer"] - free.terms["transfer"] == pytest.approx(49.9 + 0.3 + 0.2 - 50.0 - in_s)
    others = WorkerLoad(free_blocks=10_000, num_blocks=10_000, others=OthersLoad(2, arriving_tokens=2000))
    told = price(Plan(P0, D0), question, cluster(*ALL, d0={"load": others}))
    assert told.terms["transfer"] - free.terms["transfer"] == pytest.approx(0.2 - in_s), "what others have handed over comes first"
    pairs = [Plan(prefill, decode) for prefill in (P0, P1) for decode in (D0, D1)]
    assert min(joint().score(question, pairs, workers), key=lambda each: each.cost).plan.decode == D1


def test_when_the_first_token_comes_of_one_that_has_to_wait() -> None:
    """Behind what the prefill worker with least to do has, and a part of what waits. Decode workers take their part where whole requests
    are given to them, nobody is harmed and nothing promised per token, or there are no others."""
    workers = cluster(*ALL, p0=busy_prefill(2000), p1=busy_prefill(5000))
    question, speed = ask(1000, waited_s=0.25), 1000 / (0.01 + 1000 * 1e-4)
    own_s = 2 * 0.01 + 2000 * 1e-4 + 0.11
    assert joint().soonest_s(question, workers, 6000, everywhere=False) == pytest.approx(0.25 + own_s + 6000 / (2 * speed))
    assert joint().soonest_s(question, workers, 6000, everywhere=True) == pytest.approx(0.25 + 0.11 + 6000 / (4 * speed))
    soonest_s = joint().soonest_s(replace(question, tpot_s=1.0), workers, 6000, everywhere=True)
    assert soonest_s == pytest.approx(0.25 + own_s + 6000 / (2 * speed))
    books = Books(decoding=20, context_tokens=20_000, finishes_s=(1e9,) * 20, slacks_s=(0.05,) * 100, token_slacks_s=(0.0,) * 100)
    harmed = {**workers, D0: seen("d0", books=books)}
    assert joint().soonest_s(question, harmed, 6000, everywhere=True) == pytest.approx(0.25 + 0.11 + 6000 / (3 * speed))
    alike = {worker: workers[worker] for worker in (D0, D1)}
    assert joint().soonest_s(question, alike, 0, everywhere=False) == pytest.approx(0.25 + 0.11)


def test_experience_counts_against_the_model() -> None:
    """Where answers made by one worker alone lately took much longer than predicted, a pair is preferred."""
    workers = cluster(*ALL)
    question = ask(1000, 400.0, likely_tokens=(100.0, 400.0, 900.0), tpot_s=0.05)
    assert not taken(question, workers).is_split
    assert taken(question, workers, joint(predictions=Known(slower=(60, 100)))).is_split


def test_no_seat_means_waiting_for_one() -> None:
    """The first of those that run there to be done makes room."""
    books = Books(decoding=64, context_tokens=64_000, finishes_s=tuple(60.0 + n for n in range(64)))
    workers = cluster("p0", "d0", d0={"books": books})
    priced = price(Plan(P0, D0), ask(1000), workers)
    in_s = priced.terms["prefill"] + priced.terms["transfer"]
    assert priced.terms["admit"] == pytest.approx(10.0 - in_s + MODEL.decode_s(64, 64_000) / 2, abs=0.001)


@pytest.mark.parametrize("switch", sorted(SWITCHES))
def test_each_switch_leaves_something_out(switch: str) -> None:
    """A term that is left out is not in the cost; knowledge that is left out changes what is predicted."""
    workers = cluster(*ALL, p0=busy_prefill(3000), d0=no_seat() if switch == "admit" else half_done())
    question = ask(3000, hits={P0: 1000}, ttft_s=0.2, tpot_s=0.012)
    if switch == "blur":  # between other routers only
        others = OthersLoad(90, 0, 90, 90_000)
        workers = {name: replace(seen, load=msgspec.structs.replace(seen.load, others=others)) for name, seen in workers.items()}
    if switch == "load":
        question = replace(question, adapter="poet")
        workers[P0] = replace(workers[P0], load=msgspec.structs.replace(workers[P0].load, adapters=AdapterLoad(slots=1, load_s=0.1)))
    full, less = joint(), joint(frozenset({switch}))
    if switch == "alone":
        assert {c.plan.is_split for c in less_candidates(less, question, workers)} == {True}
        return
    a, b = price(Plan(P0, D0), question, workers, full), price(Plan(P0, D0), question, workers, less)
    if switch == "admit":
        assert a.terms["admit"] > 0
    assert b.cost != pytest.approx(a.cost, abs=1e-4)


def no_seat() -> dict[str, Any]:
    finishes = tuple(60.0 + n for n in range(70))
    return {"books": Books(decoding=70, context_tokens=70_000, finishes_s=finishes), "legs": 3}


def half_done() -> dict[str, Any]:
    return {"books": Books(decoding=30, context_tokens=30_000, finishes_s=(50.1,) * 10 + (1e9,) * 20), "legs": 30}


def less_candidates(policy: Joint, question: Ask, workers: dict[WorkerId, WorkerView]) -> list[Scored]:
    return list(Balancer(policy).choose(question, workers).candidates)


def test_an_unknown_switch_lists_the_known() -> None:
    """For whoever mistypes an ablation."""
    with pytest.raises(ValueError, match="colour cannot be left out; what can: admit, alone, blur, decode"):
        joint(frozenset({"colour"}))


def test_ties_are_broken_at_random() -> None:
    """Equal workers get equal shares."""
    counts = Counter(taken(ask(), cluster(*ALL, "d2", "d3"), joint(seed=seed)).decode for seed in range(400))
    assert all(70 <= counts[WorkerId(name)] <= 130 for name in ("d0", "d1", "d2", "d3"))


def test_routers_that_see_the_same_do_not_all_do_the_same() -> None:
    """Where most of the load is others', a slightly longer queue is taken now and then; where there are no others, never."""

    def view(others: int) -> dict[WorkerId, WorkerView]:
        load = WorkerLoad(free_blocks=10_000, num_blocks=10_000, others=OthersLoad(others, 0, others, others * 1000))
        return cluster("p0", "p1", p0={"load": load}, p1={"load": load, **busy_prefill(100)})

    def longer(others: int) -> int:
        return sum(taken(ask(1000, 50.0), view(others), joint(seed=seed)) == Plan(P1, P1) for seed in range(100))

    assert longer(0) == 0
    assert 5 < longer(40) < 60


def test_a_thousand_workers_make_few_plans() -> None:
    """The best of each side are paired; those with a worse queue are not even looked at together."""
    names = [f"p{n}" for n in range(300)] + [f"d{n}" for n in range(700)]
    workers = cluster(*names, **{f"p{n}": busy_prefill(1000 + n) for n in range(300) if n != 77})
    policy = joint()
    scored, priced = policy.decide(ask(), candidates(ask(), workers, policy.alone), workers)
    assert priced == 4 * 4 + 4
    assert {s.plan.prefill for s in scored if s.plan.is_split} >= {WorkerId("p77")}


def test_a_kept_prompt_where_nobody_decodes() -> None:
    """Its keeper does the rest itself, or another prefill worker all of it."""
    plan = taken(ask(keeper=P0, hits={P0: 990}), cluster("p0", "p1"))
    assert plan == Plan(P0, P0)
