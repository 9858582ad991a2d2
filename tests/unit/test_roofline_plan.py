"""Set-ups by the performance model: waiting, what pools can do, which are worth it."""

import math
import random
import re
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from engine.performance.plan.curve import Curve
from engine.performance.plan.engine_kind import EngineKind
from engine.performance.plan.link import Link, handover_s
from engine.performance.plan.ranking import plan, smallest_first, verdict_at
from engine.performance.plan.search import Search
from engine.performance.plan.set_up import SetUp, candidates
from engine.performance.plan.stock import Stock
from engine.performance.plan.waiting import InTurn, Waits, largest, smallest
from engine.performance.plan.workload import Objectives, Workload
from engine.performance.roofline.named import roofline_by_name

PROMISED = Objectives(ttft_s=1.0, tpot_s=0.03)


@cache
def kind(layout="tp2", model="llama-3.1-70b", prompt=2048, answer=256, budget=8192, price=2.0):
    roofline = roofline_by_name(f"roofline:h200:{model}:{layout}").roofline
    return EngineKind(layout, roofline, Workload(prompt, answer), budget, price)


def waited(rate, service, workers, jobs=60_000):
    """Waits in a first-come queue, one by one."""
    chance, now, free = random.Random(3), 0.0, [0.0] * workers
    waits = []
    for _ in range(jobs):
        now += chance.expovariate(rate)
        first = min(range(workers), key=free.__getitem__)
        started = max(now, free[first])
        free[first] = started + service
        waits.append(started - now)
    return sorted(waits)


@pytest.mark.parametrize(("workers", "load"), [(1, 0.5), (1, 0.8), (4, 0.8), (4, 0.9), (16, 0.9)])
def test_waits_are_those_of_a_queue(workers, load):
    """Nine in ten wait no longer than is said, to a fifth of a job or a fifth of the wait."""
    measured = waited(load * workers / 2.0, 2.0, workers)
    within = InTurn(Waits.of(load, 2.0, workers)).within_s((0.0,), 0.9)
    assert within == pytest.approx(measured[int(0.9 * len(measured))], rel=0.2, abs=0.4)


@given(st.floats(0.0, 0.98), st.integers(1, 64))
def test_waits_grow_with_load(load, workers):
    """Never below 0, longer with more load, and without end when all are busy."""
    less, more = (InTurn(Waits.of(each, 1.0, workers)).within_s((0.0,), 0.9) for each in (load, load + 0.01))
    assert 0.0 <= less <= more + 1e-9
    assert InTurn(Waits.of(1.0, 1.0, workers)).within_s((0.0,), 0.9) == math.inf


def test_waiting_twice():
    """Of two queues in turn as many wait longer as when the two are drawn and added, alike ones and others."""
    chance = random.Random(5)

    def drawn(waits):
        return chance.expovariate(1.0 / waits.mean_s) if chance.random() < waits.waiting else 0.0

    for first, then in ((Waits(0.7, 2.0), Waits(0.4, 0.5)), (Waits(0.7, 2.0), Waits(0.4, 2.0)), (Waits(0.7, 2.0), Waits())):
        sums = [drawn(first) + drawn(then) for _ in range(40_000)]
        for limit in (0.5, 2.0, 6.0):
            assert InTurn(first, then).longer(limit) == pytest.approx(sum(each > limit for each in sums) / 40_000, abs=0.01)


def test_unlike_prompts():
    """A share of prompts that is long makes as many late: nine in ten are in time where the long ones are fewer, and not where they
    are more."""
    assert InTurn(Waits()).within_s((0.1,) * 19 + (5.0,), 0.9) == pytest.approx(0.1)
    assert InTurn(Waits()).within_s((0.1,) * 4 + (5.0,), 0.9) == pytest.approx(5.0)


def test_largest_and_smallest():
    """The largest that keeps is found, and the smallest number; what nothing keeps is said."""
    assert largest(lambda value: value <= 3.7, 100.0) == pytest.approx(3.7, rel=1e-6)
    assert largest(lambda _: True, 100.0) == 100.0
    assert largest(lambda _: False, 100.0) == pytest.approx(0.0, abs=1e-6)
    assert smallest(lambda count: count >= 7, 100) == 7
    assert smallest(lambda _: True, 1) == 1
    assert smallest(lambda _: False, 100) is None
    assert smallest(lambda _: True, 0) is None


@given(st.floats(0.001, 1.0), st.floats(0.0, 0.01), st.floats(1.0, 500.0))
def test_curves_and_what_they_settle_at(base, slope, at):
    """A straight line is met everywhere, its inverse too, and so many are there as come in the time that they take."""
    curve = Curve(lambda batch: base + slope * batch, 100.0)
    assert curve(at) == pytest.approx(base + slope * at)
    if slope > 1e-5:
        assert curve.reached(curve(at)) == pytest.approx(at, rel=1e-3)
    settled = curve.settled(at / curve(at))
    assert settled == pytest.approx(at, rel=1e-3)
    assert curve.reached(0.9 * curve(1.0)) == 0.0
    assert curve.settled(2.0 / slope if slope > 1e-9 else 0.0) in (math.inf, 0.0)


def test_prefill_rate_is_the_most_that_keeps_the_promise():
    """At it the promise is kept, and a little above it is not; more workers do more than their number more, as they share a queue."""
    engine = kind()
    rate = engine.prefill_rate(2, PROMISED)
    assert engine.prefill_pace(2, 0.999 * rate, PROMISED).ttft_s <= 1.0 < engine.prefill_pace(2, 1.001 * rate, PROMISED).ttft_s
    assert engine.prefill_rate(8, PROMISED) > 4 * rate


def test_decode_limit_is_where_all_room_is_taken():
    """As many are answered as come (Little), at the promised time per token and no more than there is room for."""
    engine = kind()
    rate = engine.decode_limit(3, 0.03)
    pace = engine.decode_pace(rate / 3)
    assert pace.batch == pytest.approx(rate / 3 * 256 * pace.tpot_s, rel=0.01)
    assert pace.tpot_s == pytest.approx(0.03, rel=0.01) or pace.batch == pytest.approx(engine.max_batch, rel=0.01)
    assert engine.answer_waits(3, 0.5 * rate, 0.03).waiting < engine.answer_waits(3, 0.95 * rate, 0.03).waiting < 1.0
    assert engine.answer_waits(3, 1.01 * rate, 0.03).mean_s == math.inf


def test_both_in_one_is_slower_than_either():
    """A worker that does both does less of each than one that does that alone."""
    engine = kind()
    both = engine.whole_rate(1, PROMISED)
    assert 0 < both < engine.prefill_rate(1, PROMISED)
    assert both < engine.decode_limit(1, PROMISED.tpot_s)


def test_cached_prompts_cost_less():
    """Half of the prompt cached takes half of the time; as waits are shorter too, the promise holds for more than twice as many."""
    roofline = kind().roofline
    half = EngineKind("half", roofline, Workload(2048, 256, hit_rate=0.5))
    assert half.workload.new_tokens == half.workload.cached_tokens == 1024
    assert half.prompt_among_others_s == pytest.approx(kind().prompt_among_others_s / 2, rel=0.1)
    assert half.prefill_rate(1, PROMISED) > 2 * kind().prefill_rate(1, PROMISED)
    assert half.decode_limit(1, 0.03) == kind().decode_limit(1, 0.03)


def test_data_parallel_groups():
    """Eight groups that share experts answer eight times what one of them does."""
    engine = kind("tp1:ep8", "deepseek-v3")
    assert (engine.gpus, engine.groups) == (8, 8)
    rate = engine.decode_limit(1, 0.03)
    assert engine.decode_pace(rate).batch * 8 == pytest.approx(rate * 256 * engine.decode_pace(rate).tpot_s, rel=0.01)


def test_candidates():
    """Every ratio that the GPUs allow, and workers that do both; never more GPUs than there are."""
    two, four = kind("tp2"), kind("tp4")
    found = list(candidates([two], [four], [two, four], 16))
    assert [(each.prefill_workers, each.decode_workers) for each in found if each.prefill] == [(n, (16 - 2 * n) // 4) for n in range(1, 7)]
    assert [(each.decode.name, each.decode_workers) for each in found if not each.prefill] == [("tp2", 8), ("tp4", 4)]
    assert all(each.gpus <= 16 for each in found)
    assert list(candidates([two], [four], [four], 3)) == []


def test_ratio_follows_the_workload():
    """Long prompts need more GPUs for prompts, long answers more for answers."""

    def share(prompt, answer):
        engine = kind(prompt=prompt, answer=answer)
        best = plan(candidates([engine], [engine], [], 24), Objectives(3.0, 0.03)).ranked[0].set_up
        return best.prefill_workers / (best.prefill_workers + best.decode_workers)

    assert share(8192, 256) > share(2048, 512) > share(512, 1024)


def test_best_first():
    """By goodput per GPU, or by price; every promise is kept, and what is full first is said."""
    engine = kind()
    found = plan(candidates([engine], [engine], [engine], 16), PROMISED).ranked
    assert all(before.rate_per_s > 0.98 * after.rate_per_s for before, after in pairwise(found))
    assert all(each.pace.ttft_s <= 1.0 + 1e-6 and each.pace.tpot_s <= 0.03 + 1e-6 for each in found)
    for each in found:
        prefill, decode = each.set_up.rates(PROMISED)
        assert each.bound_by == ("both" if each.set_up.prefill is None else "prefill" if prefill < decode else "decode")
    cheap, dear = kind("tp4", price=1.0), kind("tp2", price=8.0)
    assert plan(candidates([], [], [dear, cheap], 8), PROMISED, by_price=True).ranked[0].set_up.decode is cheap


def test_price_and_bytes():
    """Dollars of an hour over the tokens of an hour; KV that comes to a decode worker, and what a hand-over takes."""
    engine = kind()
    (found,) = plan([SetUp(engine, 2, engine, 3)], PROMISED).ranked
    assert found.price_per_million_tokens == pytest.approx(2.0 * 10 / (found.rate_per_s * 256 * 3600) * 1e6)
    assert found.kv_bytes_per_s == pytest.approx(found.rate_per_s * 2048 * 327_680 / 2)
    assert found.gpu_bytes_per_s == pytest.approx(found.rate_per_s * 2048 * 327_680 / 4)
    assert found.handover_s == 0.0


@pytest.mark.parametrize("gpus", [5, 12, 32])
def test_the_search_finds_what_trying_all_finds(gpus):
    """The best pair of pools, though it looks at two ratios of each pair of kinds only."""
    kinds = (kind("tp2"), kind("tp4"))
    found = plan(Search(kinds, kinds, (), Stock(gpus), PROMISED).balanced(), PROMISED).ranked
    every = plan(candidates(kinds, kinds, [], gpus), PROMISED).ranked
    assert max(each.rate_per_s for each in found) == pytest.approx(max(each.rate_per_s for each in every))


def test_the_smallest_is_as_small_as_can_be():
    """It carries the rate, and with a worker less on either side it does not."""
    engine = kind()
    (found,) = smallest_first(Search((engine,), (engine,), (), Stock(64), PROMISED).carrying(20.0), PROMISED, 20.0)
    set_up = found.set_up
    assert set_up.carries(20.0, PROMISED)
    assert set_up.rate(PROMISED) >= 20.0
    assert not SetUp(engine, set_up.decode_workers - 1, engine, set_up.prefill_workers).carries(20.0, PROMISED)
    assert not SetUp(engine, set_up.decode_workers, engine, set_up.prefill_workers - 1).carries(20.0, PROMISED)


def test_handovers():
    """As long as the slower port takes when idle, longer with load, without end where a port is full."""
    link, ends = Link(1e9, 0.002), ((2, 1), (1, 4))  # two workers with a port of 1 GB/s, one with four
    assert handover_s(link, 0.0, 1e8, ends) == pytest.approx(0.102)
    assert handover_s(link, 10.0, 1e8, ends) > 0.102
    assert handover_s(link, 20.0, 1e8, ends) == math.inf
    assert handover_s(Link(), 1e6, 1e8, ends) == 0.0


@pytest.mark.parametrize(
    ("set_ups", "objectives", "verdict"),
    [
        (lambda: candidates([kind()], [kind()], [kind()], 16), Objectives(1.0, 0.001), "Nothing keeps 1 s to the first token and 1 ms"),
        (lambda: candidates([kind("tp1")], [kind("tp1")], [kind("tp1")], 16), PROMISED, "Nothing keeps"),
        (lambda: candidates([kind()], [kind()], [], 16), PROMISED, "Disaggregate: .* Workers that do both do not keep"),
        (lambda: candidates([], [], [kind()], 16), PROMISED, "Do not disaggregate: with two roles"),
        (lambda: candidates([kind()], [kind()], [kind(budget=512)], 16), Objectives(3.0, 0.025), r"Disaggregate: .*, for \+\d+% requests"),
        (lambda: candidates([kind()], [kind()], [kind()], 4), Objectives(3.0, 0.2), r"Do not disaggregate: 2 x tp2.*, for \+\d+% requests"),
    ],
)
def test_verdicts(set_ups, objectives, verdict):
    """Whether to disaggregate, with the reason."""
    assert re.match(verdict, plan(set_ups(), objectives).verdict)


@pytest.mark.parametrize(
    ("search", "rate_per_s", "by_price", "verdict"),
    [
        (Search((), (), (kind(),), Stock(2), PROMISED), 99.0, False, "Nothing carries 99 requests per second with 2 GPUs"),
        (Search((kind(),), (kind(),), (), Stock(16), PROMISED), 1.0, False, "Disaggregate: .* Workers that do both do not carry 1 "),
        (Search((), (), (kind(),), Stock(16), PROMISED), 1.0, False, "Do not disaggregate: .* Two roles do not carry 1 "),
        (Search((kind(),), (kind(),), (kind(budget=512),), Stock(16), PROMISED), 0.5, False, "Do not .* on 2 GPUs instead of the 4 of 1 x"),
        (Search((kind(),), (kind(),), (kind(budget=512),), Stock(16), PROMISED), 0.5, True, "Do not .* for 50% less per token than 1 x"),
        (Search((kind(),), (kind(),), (kind(price=4.0),), Stock(4), PROMISED), 0.5, True, "D.* at the price of .* carries up to"),
    ],
)
def test_verdicts_for_a_rate(search, rate_per_s, by_price, verdict):
    """By what set-ups that carry it need, as they are chosen by that; where it is the same, by what they can do more."""
    found = smallest_first(search.carrying(rate_per_s), PROMISED, rate_per_s, by_price)
    assert re.match(verdict, verdict_at(found, rate_per_s, search.stock.gpus, by_price)), verdict_at(found, rate_per_s, 0, by_price)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Workload(0, 1),
        lambda: Workload(1, 0),
        lambda: Workload(1, 1, 1.0),
        lambda: Objectives(0.0, 1.0),
        lambda: Objectives(1.0, float("nan")),
        lambda: Objectives(1.0, 1.0, 1.0),
    ],
)
def test_impossible_wishes(make):
    """Said when they are made."""
    with pytest.raises(ConfigError, match="must be"):
        make()
