"""Baton's scaler as a whole, on workers on paper."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.memory import BatonState
from autoscaler.plan import Add, Drain, Plan, Relabel, Wake
from autoscaler.policy import Objective, PoolLimits, ScalerLimits, Window
from autoscaler.scaler import BatonScaler
from autoscaler.signals import Phase, PoolSignals, Reading, Signals, TrafficSignals
from core.worker import Role
from tests.support.scaling import FACTS, START_UP_S, STEP, Paper, limits, paper, policy, signals, traffic, worker

IDLE = TrafficSignals(Reading(0.0))


def scaler(bounds: ScalerLimits | None = None, **changes: object) -> BatonScaler:
    return BatonScaler(bounds or limits(), policy(**changes))


def first_plan(heard: Signals, bounds: ScalerLimits | None = None, **changes: object) -> Plan:
    """Of a scaler that has seen nothing before."""
    made = scaler(bounds, **changes)
    return made.plan(heard, made.first(), 1_000_000.0)[0]


def added(plan: Plan, role: Role) -> int:
    return sum(action.count for action in plan.actions if isinstance(action, Add) and action.role is role)


def wanted(plan: Plan, role: Role) -> int:
    """For the forecast, before limits."""
    number = next(pool.wanted for pool in plan.pools if pool.role is role)
    assert number is not None
    return number


# -- more ------------------------------------------------------------------------------------------------------------------


def test_several_are_added_at_once() -> None:
    """What is missing for a demand many times the capacity is asked for in one plan, in both pools."""
    plan = first_plan(signals(rate=60.0, prefill=2, decode=2))
    assert added(plan, Role.PREFILL) >= 2
    assert added(plan, Role.DECODE) >= 3
    assert [plan.target(role) for role in Role] == [wanted(plan, role) for role in Role]


def test_pending_workers_count_and_do_not_block() -> None:
    """Workers that start are not asked for again; when the demand rises further meanwhile, more are."""
    cluster = paper(scaler(), 1, 1)
    before = cluster.tick(traffic(30.0)).actions
    assert before
    assert not any(isinstance(action, Add) for action in cluster.tick(traffic(30.0)).actions)
    assert cluster.count(Role.DECODE, Phase.STARTING) > 0
    assert any(isinstance(action, Add) for action in cluster.tick(traffic(60.0)).actions)


def test_a_backlog_is_worth_workers() -> None:
    """With the same arrivals, more that waits never wants fewer prefill workers, and much wants more."""
    counts = [wanted(first_plan(signals(10.0, 4, 4, queue=queue)), Role.PREFILL) for queue in (0.0, 1e5, 1e6, 1e7)]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_running_requests_are_demand() -> None:
    """Answers that turn out longer than the last ones were are seen by how many decode, before the first of them has ended."""
    few, many = (first_plan(signals(5.0, 2, 2, running=running)) for running in (50.0, 800.0))
    assert added(few, Role.DECODE) == 0
    assert added(many, Role.DECODE) >= 5


def test_the_order_of_means() -> None:
    """First who only has to change its role, then who sleeps, then new ones."""
    asleep = tuple(worker(f"s{number}", Role.DECODE, Phase.SLEEPING) for number in range(2))
    plan = first_plan(signals(40.0, 1, 12, prompt=8000.0, output=60.0, others=asleep))
    kinds = [type(action) for action in plan.actions]
    assert kinds[0] is Relabel
    assert kinds == sorted(kinds, key=[Relabel, Wake, Add, Drain].index)


def test_sleeping_before_new() -> None:
    """A sleeping worker is woken, in whatever role is short, and only what is missing beyond is started."""
    asleep = tuple(worker(f"s{number}", Role.PREFILL, Phase.SLEEPING) for number in range(2))
    with_them, without = (first_plan(signals(60.0, 2, 2, others=others)) for others in (asleep, ()))
    assert sum(isinstance(action, Wake) for action in with_them.actions) == 2
    news = [sum(added(plan, role) for role in Role) for plan in (with_them, without)]
    assert news[0] == news[1] - 2


# -- roles -----------------------------------------------------------------------------------------------------------------


def test_a_burst_relabels_first() -> None:
    """Long prompts come where there are workers for long answers: some change roles in the very next plan."""
    cluster = paper(scaler(), 2, 10)
    for _ in range(5):
        assert not cluster.tick(traffic(12.0, prompt=1000, output=600), running=150).actions
    plan = cluster.tick(traffic(24.0, prompt=8000, output=50), queue=100_000, running=150)
    moves = [action for action in plan.actions if isinstance(action, Relabel)]
    assert moves
    assert all(move.role is Role.PREFILL for move in moves)
    assert plan.actions[: len(moves)] == tuple(moves)


def test_both_short_are_equally_short() -> None:
    """Where there are too few workers for everything, roles are divided so that neither pool is the bottleneck alone."""
    made = scaler(limits(budget=12))
    plan, _ = made.plan(signals(100.0, 10, 2), made.first(), 1e6)
    prefill, decode = (plan.target(role) or 0 for role in Role)
    assert sum(1 for action in plan.actions if isinstance(action, Relabel)) > 0
    assert 2 <= prefill <= 7
    assert prefill + decode == 12


def test_no_relabelling_where_it_is_off_or_workers_differ() -> None:
    """Roles change only where that is wanted, and where a worker of one role can be one of the other."""
    unlike = ScalerLimits(PoolLimits(1, 64, 1.0), PoolLimits(1, 64, 2.0))
    heard = signals(24.0, 2, 10, prompt=8000.0, output=50.0)
    assert any(isinstance(action, Relabel) for action in first_plan(heard).actions)
    for plan in (first_plan(heard, relabel=False), first_plan(heard, unlike)):
        assert not any(isinstance(action, Relabel) for action in plan.actions)
        assert added(plan, Role.PREFILL) > 0


def test_who_has_least_to_finish_changes() -> None:
    """Of all that could, the one with the fewest requests is relabelled."""
    made = scaler()
    busy = [worker(f"d{number}", Role.DECODE, running=number + 1) for number in range(8)]
    idle = worker("idle", Role.DECODE, running=0)
    heard = signals(24.0, 2, 0, prompt=8000.0, output=50.0, others=(*busy, idle))
    moves = [action.worker for action in made.plan(heard, made.first(), 1e6)[0].actions if isinstance(action, Relabel)]
    assert moves[0] == "idle"


# -- less ------------------------------------------------------------------------------------------------------------------


def test_shrinking_is_late_and_slow() -> None:
    """Nobody goes for as long as a start takes after the demand fell; then a part of them at a time, not twice in ``shrink_every_s``."""
    cluster = paper(scaler(), 20, 20)
    plans = [cluster.tick(traffic(5.0)) for _ in range(120)]
    left = [(plan.at_s - plans[0].at_s, sum(isinstance(action, Drain) for action in plan.actions)) for plan in plans]
    times = [at_s for at_s, count in left if count]
    assert times[0] >= START_UP_S
    assert all(later - earlier >= policy().shrink_every_s for earlier, later in pairwise(times))
    assert max(count for _, count in left) <= 12
    assert cluster.count(Role.PREFILL) < 15


def test_a_short_dip_costs_nobody() -> None:
    """Demand that comes back before a start would have been through finds all workers there."""
    cluster = paper(scaler(), 1, 1)
    for _ in range(100):
        cluster.tick(traffic(25.0))
    for _ in range(4):
        for rate in (25.0,) * 6 + (5.0,) * 5:
            assert not any(isinstance(action, Drain) for action in cluster.tick(traffic(rate)).actions)


@pytest.mark.parametrize(
    ("said_s", "start_up_s", "patience_s"),
    [(None, 5.0, 60.0), (None, 120.0, 120.0), (None, 1e3, 300.0), (7.0, 60.0, 7.0), (0.0, 60.0, 0.0)],
)
def test_patience_is_as_long_as_starts(said_s: float | None, start_up_s: float, patience_s: float) -> None:
    """As long as one start, within bounds; or what somebody said."""
    assert policy(shrink_after_s=said_s).patience_s(start_up_s) == patience_s


def test_what_has_not_started_goes_first() -> None:
    """Beyond a limit, workers that are still starting are given up before any that serve."""
    starting = tuple(worker(f"n{number}", Role.DECODE, Phase.STARTING, age_s=float(number)) for number in range(3))
    plan = first_plan(signals(5.0, 1, 4, others=starting), ScalerLimits(PoolLimits(1, 4), PoolLimits(1, 5)))
    assert [action.worker for action in plan.actions if isinstance(action, Drain)] == ["n0", "n1"]


@pytest.mark.parametrize("can_sleep", [True, False])
def test_some_are_put_to_sleep(can_sleep: bool) -> None:
    """With ``keep_asleep``, so many of those that go are to sleep, the others to end; where engines cannot, all are."""
    cluster = paper(scaler(keep_asleep=1), 6, 6)
    facts = msgspec.structs.replace(FACTS, can_sleep=can_sleep)
    cluster.workers = {name: msgspec.structs.replace(seen, facts=facts) for name, seen in cluster.workers.items()}
    for _ in range(60):
        cluster.tick(traffic(2.0))
    gone = [action for plan in cluster.plans for action in plan.actions if isinstance(action, Drain)]
    assert len(gone) > 2
    assert sum(action.then_sleep for action in gone) == int(can_sleep)


def test_to_zero_and_back() -> None:
    """Pools that may be empty are, after ``zero_after_s`` without a request; the first that waits starts one worker of each role."""
    cluster = paper(scaler(limits(least=0), shrink_after_s=30.0, shrink_every_s=10.0, zero_after_s=600.0), 2, 2)
    for _ in range(30):
        cluster.tick(traffic(1.0))
    quiet = 0
    while cluster.count(Role.PREFILL) + cluster.count(Role.DECODE):
        cluster.tick(IDLE)
        quiet += 1
        assert quiet < 200
    assert quiet * 10 >= 600
    assert not cluster.tick(IDLE).actions
    plan = cluster.tick(IDLE, queue=4000.0)
    assert {(action.role, action.count) for action in plan.actions if isinstance(action, Add)} == {(Role.PREFILL, 1), (Role.DECODE, 1)}


def test_a_cluster_that_was_never_asked_does_not_end_at_once() -> None:
    """``zero_after_s`` counts from the first plan, too."""
    cluster = paper(scaler(limits(least=0), zero_after_s=600.0), 1, 1)
    for _ in range(58):
        cluster.tick(IDLE)
    assert (cluster.count(Role.PREFILL), cluster.count(Role.DECODE)) == (1, 1)


def test_the_first_answers_need_not_end_for_a_cluster_to_grow() -> None:
    """Long ones may take minutes: until then a length is assumed, and said to be."""
    cluster = paper(scaler(), 1, 1)
    unread = TrafficSignals(Reading(50.0), Reading(50.0), Reading(4000.0), None, Reading(0.0))
    plan = cluster.tick(unread, queue=4e6, running=500.0)
    assert not plan.held
    assert {action.role for action in plan.actions if isinstance(action, Add)} == set(Role)
    assert any("no answer has ended yet: 256 tokens each are assumed" in warning for warning in plan.warnings)
    plan = cluster.tick(traffic(50.0), queue=4e6, running=500.0)
    assert not any("no answer has ended" in warning for warning in plan.warnings)


def test_an_empty_cluster_nobody_asks_of_is_nothing_to_warn_of() -> None:
    """That nobody has measured is said once somebody asks; what its engines can hold is remembered meanwhile."""
    cluster = paper(scaler(limits(least=0), shrink_after_s=30.0, shrink_every_s=10.0, zero_after_s=60.0, prior=STEP), 1, 1)
    while cluster.count(Role.PREFILL) + cluster.count(Role.DECODE):
        cluster.tick(IDLE)
    assert cluster.tick(IDLE).warnings == ()
    assert cluster.tick(traffic(1.0), queue=4000.0).warnings == ()


def test_at_zero_somebody_who_waits_is_enough() -> None:
    """A cluster that starts empty, and of which no arrivals are known, still starts for a queue."""
    heard = Signals(prefill=PoolSignals(queue_tokens=Reading(500.0)))
    plan = first_plan(heard, limits(least=0))
    assert plan.held
    assert {(action.role, action.count) for action in plan.actions if isinstance(action, Add)} == {(Role.PREFILL, 1), (Role.DECODE, 1)}


# -- doubt -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"traffic": traffic(50.0, age_s=31.0)}, "arrivals: last heard 31 s ago"),
        ({"traffic": TrafficSignals()}, "arrivals: nobody says how many"),
        ({"prefill": PoolSignals()}, "waiting prompt tokens: nobody"),
        ({"decode": PoolSignals(running=Reading(3.0, 40.0))}, "requests that decode: last heard 40 s ago"),
        ({"traffic": TrafficSignals(Reading(5.0))}, "no prompt has been read yet"),
    ],
)
def test_holds_when_it_does_not_know(broken: dict[str, object], said: str) -> None:
    """With a signal missing or too old nobody comes, goes or changes, and the plan names the signal."""
    made = scaler()
    plan, _ = made.plan(msgspec.structs.replace(signals(50.0, 3, 3), **broken), made.first(), 1e6)
    assert not plan.actions
    assert said in plan.held
    assert [pool.target for pool in plan.pools] == [3, 3]


def test_a_hold_still_replaces_the_dead() -> None:
    """The last plan's numbers are kept up while nothing is known."""
    cluster = paper(scaler(), 3, 4)
    cluster.tick(traffic(20.0))
    target = cluster.count(Role.DECODE)
    for name in [name for name, seen in cluster.workers.items() if seen.role is Role.DECODE][:2]:
        del cluster.workers[name]
    plan = cluster.tick(TrafficSignals())
    assert plan.held
    assert cluster.count(Role.DECODE) == target


def test_what_was_long_ago_is_no_reason_to_shrink() -> None:
    """After a hold, low demand has to be seen for a whole start anew."""
    cluster = paper(scaler(), 20, 20)
    for _ in range(6):
        cluster.tick(traffic(2.0))
    cluster.tick(TrafficSignals())
    assert not any(cluster.tick(traffic(2.0)).actions for _ in range(6))


@pytest.mark.parametrize("gap_s", [61.0, 600.0])
def test_what_was_before_a_gap_is_no_reason_to_shrink(gap_s: float) -> None:
    """Likewise where no plan was made for a while: a controller was away, or a clock was set forward."""
    cluster = paper(scaler(), 20, 20)
    for _ in range(6):
        cluster.tick(traffic(2.0))
    assert not cluster.tick(traffic(2.0), seconds=gap_s).actions
    assert not any(cluster.tick(traffic(2.0)).actions for _ in range(5))
    assert any(cluster.tick(traffic(2.0)).actions for _ in range(3))


@pytest.mark.parametrize("back_s", [20.0, 3600.0])
def test_a_clock_that_is_set_back_stops_nothing(back_s: float) -> None:
    """Workers that nobody wants go after the usual time, not after an hour more; nobody goes sooner for it."""
    cluster = paper(scaler(), 20, 20)
    for _ in range(6):
        cluster.tick(traffic(2.0))
    cluster.tick(traffic(2.0), seconds=-back_s)
    acted = [bool(cluster.tick(traffic(2.0)).actions) for _ in range(12)]
    assert not any(acted[:2])
    assert any(acted)


def test_a_clock_that_is_set_back_a_little_forgets_nothing() -> None:
    """Over the end of a part of a season, too."""
    cluster = paper(scaler(season_s=960.0, forecast="seasonal"), 4, 4)
    for turn in range(200):
        cluster.tick(traffic(2.0 + turn % 96 / 20))
    assert isinstance(cluster.state, BatonState)
    past = cluster.state.prefill.track.series.parts
    cluster.tick(traffic(2.0), seconds=-1.0)
    assert past
    assert cluster.state.prefill.track.series.parts == past


def test_cold_workers_are_not_measured_by() -> None:
    """Steps of a worker's first seconds say nothing of its speed: a slow cold one changes no number."""
    slow = worker("cold", Role.DECODE, warm=False, step=msgspec.structs.replace(STEP, decode_base_s=0.5))
    with_it, without = (first_plan(signals(30.0, 4, 3, others=(other,))) for other in (slow, worker("warm", Role.DECODE)))
    assert with_it.pools[1].worker_tokens_per_s == without.pools[1].worker_tokens_per_s


def test_unmeasured_engines() -> None:
    """Before anybody has measured anything, one worker of each role is enough to find out, and the plan says so."""
    cold = tuple(worker(f"{role}", role, warm=False, step=None) for role in Role)
    plan = first_plan(signals(50.0, 0, 0, others=cold))
    assert not plan.actions
    assert any("nobody has measured" in warning for warning in plan.warnings)


# -- limits ----------------------------------------------------------------------------------------------------------------


def test_an_unreachable_objective_is_reported_not_chased() -> None:
    """A prompt too long for its promise wants workers for its tokens, however short the promise, and the plan says that it is broken."""
    heard = signals(1.0, 2, 2, prompt=60_000.0)
    plan = first_plan(heard)
    assert any("no number of workers keeps that" in warning for warning in plan.warnings)
    assert wanted(plan, Role.PREFILL) <= 6


@pytest.mark.parametrize("tpot_s", [0.006, 0.001])
def test_an_unreachable_time_per_token_is_not_chased(tpot_s: float) -> None:
    """A step of one request takes 6.5 ms: there are no workers for requests on their own, and the plan says that the promise is broken."""
    plan = first_plan(signals(5.0, 2, 2, running=11.0), objective=Objective(2.0, tpot_s))
    assert any("no number of workers keeps that" in warning for warning in plan.warnings)
    assert wanted(plan, Role.DECODE) == 1


def test_sleepers_make_room_for_the_other_pool() -> None:
    """Where roles do not change, those of one pool are ended for GPUs that the other one lacks: as many as it takes."""
    asleep = tuple(worker(f"s{number}", Role.DECODE, Phase.SLEEPING) for number in range(3))
    plan = first_plan(signals(60.0, 2, 1, others=asleep, prompt=8000.0, output=20.0), limits(most=4, budget=7), relabel=False)
    assert (added(plan, Role.PREFILL), wanted(plan, Role.DECODE)) == (1, 1)
    assert [action.worker for action in plan.actions if isinstance(action, Drain)] == ["s0"]
    assert plan.target(Role.DECODE) == 1


@pytest.mark.parametrize("stuck", [{"phase": Phase.STARTING, "age_s": 500.0}, {"outgoing": True}])
def test_who_cannot_change_is_not_waited_for(stuck: dict[str, Any]) -> None:
    """Decode has eight too many: none of them will ever compute prompts, so others are started for that."""
    plan, hopeful = (
        first_plan(signals(60.0, 2, 1, others=tuple(worker(f"o{n}", Role.DECODE, **each) for n in range(8)), output=20.0))
        for each in (stuck, dict[str, Any](phase=Phase.STARTING, age_s=50.0))
    )
    assert plan.target(Role.PREFILL) == wanted(plan, Role.PREFILL) > 2
    assert added(hopeful, Role.PREFILL) == 0


def test_a_short_budget_is_shared_and_reported() -> None:
    """Both pools get what keeps up with the same part of the demand, and the plan says with how much."""
    plan = first_plan(signals(200.0, 1, 1), limits(budget=16))
    assert sum(pool.target for pool in plan.pools) == 16
    assert any("keeps up with" in warning for warning in plan.warnings)
    assert any("within 16 GPUs" in clamp for pool in plan.pools for clamp in pool.clamps)
    assert all(pool.limited for pool in plan.pools)


def test_leaving_workers_hold_their_gpus() -> None:
    """What a draining or sleeping worker holds is not given away before it is gone."""
    leaving = tuple(worker(f"l{number}", Role.DECODE, Phase.DRAINING) for number in range(4))
    plan = first_plan(signals(200.0, 5, 5, others=leaving), limits(budget=16))
    assert sum(added(plan, role) for role in Role) == 2
    assert any("more when there are GPUs" in clamp for pool in plan.pools for clamp in pool.clamps)
    assert any(pool.limited for pool in plan.pools)


def test_limits_that_keep_nothing_small_are_told_apart() -> None:
    """A minimum, a window without effect, a pool that is not quiet for long enough: all are written, none limits. A maximum does."""
    idle = first_plan(signals(0.0, 1, 1))
    assert [(pool.clamps, pool.limited) for pool in idle.pools] == [(("at least 1",), False)] * 2
    window = msgspec.structs.replace(limits(), windows=(Window("00:00", "24:00", min_workers=1),))
    assert [pool.limited for pool in first_plan(signals(0.0, 1, 1), window).pools] == [False, False]
    busy = first_plan(signals(200.0, 1, 1), limits(most=2))
    assert [(pool.clamps, pool.limited) for pool in busy.pools] == [(("at most 2",), True)] * 2


def test_a_smaller_budget_is_obeyed_at_once() -> None:
    """Workers beyond the budget are drained in the next plan, whatever the demand."""
    plan = first_plan(signals(100.0, 10, 10), limits(budget=12))
    assert sum(isinstance(action, Drain) for action in plan.actions) == 8


def test_a_schedule_holds_in_its_hours() -> None:
    """A window's minimum is there when it begins, without any demand, and is let go after it."""
    bounds = msgspec.structs.replace(limits(), windows=(Window("08:00", "10:00", role=Role.DECODE, min_workers=5),))
    made = scaler(bounds)
    day_s = 20_000 * 86_400.0
    plan, _ = made.plan(signals(0.5, 1, 1), made.first(), day_s + 8 * 3600)
    assert added(plan, Role.DECODE) == 4
    assert "08:00-10:00" in plan.text
    plan, _ = made.plan(signals(0.5, 1, 1), made.first(), day_s + 10 * 3600)
    assert not plan.actions


def test_a_dry_run_recommends_again_and_again() -> None:
    """Nothing is carried out, and nothing is remembered as if it were."""
    made = scaler(dry_run=True)
    state: BatonState = made.first()
    texts = []
    for number in range(3):
        plan, state = made.plan(signals(60.0, 2, 8, prompt=9000.0, output=40.0), state, 1e6 + 10 * number)
        assert plan.dry_run
        texts.append(plan.text.splitlines()[-1])
    assert texts[0].startswith("would do: relabel")
    assert texts[0].split(", add")[0] == texts[1].split(", add")[0] == texts[2].split(", add")[0]
    assert state.relabelled_s is None


# -- always ----------------------------------------------------------------------------------------------------------------


def test_plans_and_states_can_be_written_down() -> None:
    """A state read again from JSON is the state; a plan is JSON, and its text has a line for each pool."""
    cluster = paper(scaler(season_s=None), 2, 2)
    for _ in range(20):
        plan = cluster.tick(traffic(20.0))
    state = msgspec.json.decode(msgspec.json.encode(cluster.state), type=BatonState)
    assert state == cluster.state
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    assert [line.split(":")[0] for line in plan.text.splitlines()[:2]] == ["prefill", "decode"]


@pytest.mark.parametrize("rate", [0.5, 3.0, 17.0, 40.0])
def test_constant_demand_comes_to_rest(rate: float) -> None:
    """Under demand that does not change there comes a last action."""
    cluster = paper(scaler(), 12, 3)
    plans = [cluster.tick(traffic(rate), running=rate * 300 * 0.015) for _ in range(300)]
    assert not any(plan.actions for plan in plans[200:])


@settings(max_examples=25, deadline=None)
@given(
    rates=st.lists(st.floats(0, 200), min_size=5, max_size=40),
    budget=st.integers(4, 40),
    least=st.integers(0, 2),
    first=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    queues=st.lists(st.floats(0, 1e6), min_size=5, max_size=40),
)
def test_limits_always_hold(rates: list[float], queues: list[float], budget: int, least: int, first: tuple[int, int]) -> None:
    """Whatever happens, no pool is planned below its minimum or above its maximum, and both never beyond the budget; wherever it begins."""
    bounds = limits(least, 20, max(budget, sum(first)))
    cluster = paper(BatonScaler(bounds, policy(shrink_after_s=20.0, shrink_every_s=10.0, zero_after_s=20.0)), *first)
    for rate, queue in zip(rates, queues, strict=False):
        plan = cluster.tick(traffic(rate), queue=queue, running=rate * 5)
        assert all(least <= pool.target <= 20 for pool in plan.pools)
        assert len(cluster.workers) <= bounds.budget
        assert all(cluster.count(role) == plan.target(role) for role in Role)


@settings(max_examples=40, deadline=None)
@given(rate=st.floats(0.1, 100), more=st.floats(1.0, 4.0), prompt=st.floats(10, 30_000), output=st.floats(1, 3000))
def test_more_demand_never_wants_fewer(rate: float, more: float, prompt: float, output: float) -> None:
    """With everything else equal, a higher rate wants at least as many workers: of each role, where decode workers compute no prompts;
    where they do, of both together."""
    for mixes in (False, True):
        heard = [signals(each, 2, 2, prompt=prompt, output=output) for each in (rate, rate * more)]
        low, high = (first_plan(each, limits(most=10_000), mixes=mixes) for each in heard)
        assert mixes or all(wanted(low, role) <= wanted(high, role) for role in Role)
        assert sum(wanted(low, role) for role in Role) <= sum(wanted(high, role) for role in Role)


def test_a_start_takes_what_it_took_before() -> None:
    """The horizon is the pool's own measured start-up time, and is remembered when nobody is left who had it."""
    cluster: Paper = paper(scaler(start_up_s=500.0), 2, 2)
    assert cluster.tick(traffic(5.0)).pools[0].horizon_s == START_UP_S
    cluster.workers.clear()
    assert cluster.tick(traffic(5.0)).pools[0].horizon_s == START_UP_S
    fresh = worker("p", Role.PREFILL, start_up_s=None)
    assert first_plan(signals(5.0, 0, 1, others=(fresh,)), start_up_s=500.0).pools[0].horizon_s == 500.0
