"""What a worker can do, how many a demand needs, and how a short budget is shared."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.capacity import DecodeCapacity, Engine, PrefillCapacity, Shape, decode_capacity, knows, prefill_capacity, typical
from autoscaler.growth import grow, missing, spare
from autoscaler.policy import Objective
from autoscaler.signals import Phase
from autoscaler.sizing import Load, Need, Pool, fit
from core.step_model import StepModel
from core.worker import Role
from tests.support.scaling import FACTS, STEP, worker

SHAPE = Shape(4000.0, 1000.0, 300.0)


def need(rate: float, output_per_s: float | None = None, ttft_s: float = 2.0, in_turn: bool = False, **load: float) -> Need:
    """Prompts take 0.1 s of a worker, which holds 50 answers of 20 ms a token."""
    tokens = rate * 300 if output_per_s is None else output_per_s
    given_load = Load(SHAPE, rate, tokens, in_turn=in_turn, **load)
    return Need(given_load, PrefillCapacity(0.11, 0.1), DecodeCapacity(50.0, 0.02, True), ttft_s, 0.9, 2.0)


# -- one worker ------------------------------------------------------------------------------------------------------------


def test_prompts_share_steps() -> None:
    """A short prompt alone pays for a whole step; among others, for its part of one. Tokens and their squares it pays in any case."""
    engine = Engine(StepModel(0.01, 1e-5), FACTS)
    does = prefill_capacity(engine, Shape(512.0, 0.0, 10.0))
    assert does.alone_s == pytest.approx(0.01 + 512e-5)
    assert does.busy_s == pytest.approx(0.01 / 4 + 512e-5)


def test_cached_tokens_are_not_computed() -> None:
    """What is in a cache costs only what the rest attends to."""
    engine = Engine(STEP, FACTS)
    assert prefill_capacity(engine, Shape(4000, 3000, 1)).busy_s < 0.4 * prefill_capacity(engine, Shape(4000, 0, 1)).busy_s


@pytest.mark.parametrize(
    ("objective_ms", "num_seqs", "blocks", "bound"),
    [(25.0, 256, 3200, "time"), (500.0, 256, 100_000, "sequences"), (500.0, 256, 320, "memory")],
)
def test_a_batch_has_three_bounds(objective_ms: float, num_seqs: int, blocks: int, bound: str) -> None:
    """Steps within the promised time per token, sequences the engine takes, and KV room; whichever is the tightest."""
    facts = msgspec.structs.replace(FACTS, max_num_seqs=num_seqs, num_blocks=blocks)
    does = decode_capacity(Engine(STEP, facts), SHAPE, Objective(2.0, objective_ms / 1000))
    expected = {"sequences": 256.0, "memory": 320 * 128 / 4150}
    assert does.step_s == pytest.approx(STEP.decode_s(1, 4150) + (does.batch - 1) * (1.2e-5 + 4.1e-8 * 4150))
    if bound == "time":
        assert does.step_s == pytest.approx(0.92 * 0.025)
    else:
        assert does.batch == pytest.approx(expected[bound])


def test_what_no_batch_keeps_is_not_chased() -> None:
    """Where even a single request is slower than promised, that is said, and steps may take nearly twice as long as its. The least that can
    be promised is kept, one request a worker."""
    alone_s = STEP.decode_base_s + STEP.decode_request_s + STEP.decode_context_s * SHAPE.context_tokens
    hopeless, just = (decode_capacity(Engine(STEP, FACTS), SHAPE, Objective(2.0, alone_s * part)) for part in (0.99, 1.01))
    assert (just.batch, just.keeps) == (1.0, True)
    assert hopeless.batch > 10
    assert 1.5 * alone_s < hopeless.step_s <= 2 * alone_s
    assert not hopeless.keeps
    assert hopeless == decode_capacity(Engine(STEP, FACTS), SHAPE, Objective(2.0, alone_s / 100))


def test_a_side_without_terms_is_not_known() -> None:
    """A worker that has only decoded says nothing of prompts."""
    decodes = StepModel(decode_base_s=0.01)
    assert (knows(decodes, Role.PREFILL), knows(decodes, Role.DECODE)) == (False, True)


def test_the_typical_engine() -> None:
    """The one in the middle of its pool's warm ones; of the other pool's, where that has none; of none, none."""
    slow, fast = (msgspec.structs.replace(STEP, prefill_token_s=each) for each in (1e-3, 1e-6))
    pool = [worker(str(number), Role.PREFILL, step=step) for number, step in enumerate([slow, STEP, fast])]
    other = worker("d", Role.DECODE, step=fast)
    cold = [worker(f"c{number}", Role.PREFILL, step=slow, warm=False) for number in range(9)]
    assert typical([*pool, other, *cold], Role.PREFILL) == Engine(STEP, FACTS)
    assert typical([other, *cold], Role.PREFILL) == Engine(fast, FACTS)
    assert typical(cold, Role.PREFILL) is None


# -- many ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (0.01, 1), (5.0, 1), (45.0, 5), (90.0, 10), (900.0, 100)])
def test_workers_for_prompts(rate: float, count: int) -> None:
    """As busy as they may be where the promise leaves time to wait; nobody where nothing is asked."""
    assert need(rate).of(Role.PREFILL) == count


def test_a_tight_promise_needs_idle_workers() -> None:
    """The less time there is to wait, the more workers; less so in a large pool, where somebody is always free."""
    small = [need(17.0, ttft_s=ttft_s).of(Role.PREFILL) for ttft_s in (2.0, 0.3, 0.12)]
    assert small == sorted(small)
    assert small[-1] >= 2 * small[0]
    large = [need(170.0, ttft_s=ttft_s).of(Role.PREFILL) for ttft_s in (2.0, 0.12)]
    assert large[1] / large[0] < small[-1] / small[0]


def test_a_broken_promise_is_not_chased() -> None:
    """A prompt that alone takes longer than promised needs as many workers as with all the time of the world."""
    assert need(45.0, ttft_s=0.05).of(Role.PREFILL) == need(45.0, ttft_s=1000.0).of(Role.PREFILL)


def test_places_for_answers() -> None:
    """Mean requests at once, and as many more as there are in a bad moment of ten: 600 of 0.02 s a token are 12 at once."""
    assert need(2.0, 600.0).of(Role.DECODE) == 1
    assert need(2.0, 2400.0).of(Role.DECODE) == 2  # 48 at once do not always fit in 50 places
    assert need(2.0, 600.0, running=48.0).of(Role.DECODE) == 2


@pytest.mark.parametrize(("backlog_tokens", "in_turn", "beside"), [(0.0, 3, 3), (120_000.0, 3, 5), (180_000.0, 4, 6)])
def test_who_waits_is_served_in_turn(backlog_tokens: float, in_turn: int, beside: int) -> None:
    """Workers that keep up, and are through with what waits in time, are enough where it is first; beside what comes it takes more."""
    made = [need(20.0, backlog_tokens=backlog_tokens, backlog_s=2.0, in_turn=each) for each in (True, False)]
    assert [each.of(Role.PREFILL) for each in made] == [in_turn, beside]


def test_unknown_engines_need_one() -> None:
    """Where nobody has measured, one worker finds out."""
    blind = Need(Load(SHAPE, 50.0, 5000.0), None, None, 2.0, 0.9, 2.0)
    assert [blind.of(role) for role in Role] == [1, 1]


@settings(max_examples=60)
@given(st.floats(0.1, 500), st.floats(0, 1e6), st.floats(0, 1000), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_larger_shares_need_no_fewer(rate: float, backlog: float, running: float, one: float, other: float) -> None:
    """The need grows with the share of the load, and ``pool_share`` turns it around."""
    made = need(rate, backlog_tokens=backlog, running=running)
    small, large = sorted((one, other))
    for role in Role:
        assert made.of(role, small) <= made.of(role, large)
        count = max(1, made.of(role) - 1)
        share = made.pool_share(role, count)
        assert made.of(role, share) <= count
        assert share == 1.0 or made.of(role, share + 1e-5) > count


@settings(max_examples=60)
@given(st.floats(0.1, 300), st.floats(1, 20_000), st.floats(0, 1000), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_mixed_pools_are_rounded_up_once(rate: float, output_per_s: float, running: float, one: float, other: float) -> None:
    """Where decode workers compute prompts, too, there are as many of them as otherwise, never more prefill workers, and one at least;
    both together are never too few for all the work, and never fewer for a larger share of it."""
    apart = need(rate, output_per_s, running=running)
    mixed = msgspec.structs.replace(apart, mixed=True)
    counts, work = mixed.counts(), rate * 0.1 + max(output_per_s * 0.02, running) / 50
    assert counts[Role.DECODE] == apart.of(Role.DECODE)
    assert 1 <= counts[Role.PREFILL] <= apart.of(Role.PREFILL)
    assert sum(counts.values()) >= work
    small, large = sorted((one, other))
    assert sum(mixed.counts(small).values()) <= sum(mixed.counts(large).values())


def test_mixed_pools_save_a_worker() -> None:
    """1.2 workers of prompts and 1.2 of answers are three workers together, and four apart; nothing to do is nobody in any case."""
    apart = need(12.0, 3000.0)
    mixed = msgspec.structs.replace(apart, mixed=True)
    assert apart.counts() == {Role.PREFILL: 2, Role.DECODE: 2}
    assert mixed.counts() == {Role.PREFILL: 1, Role.DECODE: 2}
    assert msgspec.structs.replace(need(0.0, 0.0), mixed=True).counts() == dict.fromkeys(Role, 0)


POOLS = {role: Pool(1, 100) for role in Role}


def test_enough_is_enough() -> None:
    """A budget that suffices is not used up."""
    made = need(90.0)
    assert fit(made, POOLS, 1000) == {role: made.of(role) for role in Role}


@settings(max_examples=60)
@given(st.floats(0.1, 300), st.floats(1, 20_000), st.integers(2, 60), st.integers(0, 1))
def test_a_budget_is_shared_fairly(rate: float, output_per_s: float, budget: int, least: int) -> None:
    """Within it; all of it, where it is short; and no worker moved from one pool to the other would help both."""
    made, pools = need(rate, output_per_s), {role: Pool(least, 100) for role in Role}
    chosen = fit(made, pools, budget)
    wanted = sum(pools[role].clamp(made.of(role)) for role in Role)
    assert sum(chosen.values()) == min(budget, wanted)
    share = made.share(chosen)
    for giver, taker in ((Role.PREFILL, Role.DECODE), (Role.DECODE, Role.PREFILL)):
        if chosen[giver] > max(1, least):
            moved = {giver: chosen[giver] - 1, taker: chosen[taker] + 1}
            assert made.share(moved) <= share + 1e-6


def test_minima_are_kept_beyond_a_budget() -> None:
    """What the limits promise is there even where the budget was lowered below it."""
    assert fit(need(90.0), {role: Pool(5, 100) for role in Role}, 6) == dict.fromkeys(Role, 5)


# -- who comes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "have", "least", "able", "expected"),
    [
        ((5, 5), (3, 3), (1, 1), (3, 3), (2, 2)),
        ((5, 5), (3, 7), (1, 1), (3, 7), (0, 0)),
        ((5, 5), (3, 7), (1, 1), (0, 0), (2, 0)),
        ((5, 5), (3, 7), (1, 1), (3, 6), (1, 0)),
        ((8, 3), (3, 6), (1, 1), (3, 6), (2, 0)),
        ((2, 2), (3, 3), (1, 1), (3, 3), (0, 0)),
        ((5, 5), (3, 7), (4, 1), (3, 7), (1, 0)),
    ],
)
def test_one_too_many_there_is_one_too_few_less_here(
    wanted: tuple[int, int], have: tuple[int, int], least: tuple[int, int], able: tuple[int, int], expected: tuple[int, int]
) -> None:
    """Only what nobody there can change its role for is started; and what a minimum lacks."""
    as_dicts = [dict(zip(Role, pair, strict=True)) for pair in (wanted, have, least, able, expected)]
    assert missing(*as_dicts[:4]) == as_dicts[4]


def test_spare_keeps_the_sum() -> None:
    """Only what is beyond the sum to keep goes, from where most is too many."""
    have = {Role.PREFILL: 8, Role.DECODE: 4}
    assert spare(have, {Role.PREFILL: 3, Role.DECODE: 3}, keep=9) == {Role.PREFILL: 3, Role.DECODE: 0}
    assert spare(have, {Role.PREFILL: 3, Role.DECODE: 3}, keep=6) == {Role.PREFILL: 5, Role.DECODE: 1}


def test_few_gpus_go_to_both() -> None:
    """Each to the pool that lacks most: none gets all of them while the other has nobody."""
    growth = grow({Role.PREFILL: 6, Role.DECODE: 8}, [], dict.fromkeys(Role, 1.0), 6.0, swap=True)
    assert {add.role: add.count for add in growth.adds} == {Role.PREFILL: 2, Role.DECODE: 4}
    assert growth.no_room == {Role.PREFILL: 4, Role.DECODE: 4}


def test_gpus_end() -> None:
    """Sleeping workers cost nothing more, new ones what they cost; what there is no room for is told."""
    cost = {Role.PREFILL: 1.0, Role.DECODE: 2.0}
    asleep = [worker("s", Role.DECODE, Phase.SLEEPING)]
    growth = grow({Role.PREFILL: 2, Role.DECODE: 3}, asleep, cost, 5.0, swap=False)
    assert [wake.worker for wake in growth.wakes] == ["s"]
    assert {add.role: add.count for add in growth.adds} == {Role.PREFILL: 2, Role.DECODE: 1}
    assert growth.no_room == {Role.DECODE: 1}
    assert (growth.by(Role.PREFILL), growth.by(Role.DECODE)) == (2, 2)
