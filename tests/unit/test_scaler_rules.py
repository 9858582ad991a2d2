"""Rules of Baton's scaler one by one: each is seen to make a difference, and what difference."""

from __future__ import annotations

import msgspec
import pytest

from autoscaler.plan import Add, Drain, Relabel, Wake
from autoscaler.policy import ScalerLimits, Window
from autoscaler.scaler import BatonScaler
from autoscaler.signals import Phase, Reading, Signals, TrafficSignals, WorkerSignal
from core.ids import WorkerId
from core.worker import Role
from tests.support.scaling import limits, paper, policy, signals, traffic, worker

NOW_S = 1_000_000.0


def heard_of_prompts(rate: float, prefill: int, decode: int, others: tuple[WorkerSignal, ...] = (), queue: float = 0.0) -> Signals:
    """Long prompts and short answers."""
    return signals(rate, prefill, decode, prompt=8000.0, output=50.0, others=others, queue=queue)


def scaler(bounds: ScalerLimits | None = None, **changes: object) -> BatonScaler:
    return BatonScaler(bounds or limits(), policy(**changes))


def moves(heard: Signals, **changes: object) -> list[Relabel]:
    """Of a first plan."""
    made = BatonScaler(limits(), policy(**changes))
    return [action for action in made.plan(heard, made.first(), NOW_S)[0].actions if isinstance(action, Relabel)]


# -- minima ----------------------------------------------------------------------------------------------------------------


def test_a_pool_below_its_minimum_gets_workers_of_the_other() -> None:
    """At once and without any demand: also when a window with a higher minimum begins, and whoever took the last worker away."""
    for pools, bounds, least in (
        ((10, 1), msgspec.structs.replace(limits(), windows=(Window("00:00", "24:00", role=Role.DECODE, min_workers=5),)), 5),
        ((3, 0), limits(least=1), 1),
    ):
        cluster = paper(scaler(bounds), *pools)
        plan = cluster.tick(traffic(0.0))
        assert {type(action) for action in plan.actions} == {Relabel}
        assert cluster.count(Role.DECODE) == least
        for _ in range(80):
            cluster.tick(traffic(0.0))
            assert cluster.count(Role.DECODE) >= least
            assert cluster.count(Role.PREFILL) >= 1


def test_a_minimum_is_started_where_nobody_can_change() -> None:
    """Those that are on their way count; nobody is taken from a pool that is at its own minimum, or that will be replaced anyway."""
    old = tuple(worker(f"old{number}", Role.PREFILL, outgoing=True) for number in range(3))
    made = scaler(limits(least=2))
    plan, _ = made.plan(signals(0.0, 0, 0, others=(*old, worker("new", Role.DECODE, Phase.STARTING))), made.first(), NOW_S)
    assert plan.actions == (Add(Role.DECODE, 1),)


# -- changing roles --------------------------------------------------------------------------------------------------------


def test_nobody_changes_back_at_once() -> None:
    """Whoever has just come from the other role stays for ``relabel_rest_s``; then it may go back."""
    cluster = paper(scaler(limits(budget=12), relabel_rest_s=25.0), 2, 10)
    assert any(isinstance(action, Relabel) for action in cluster.tick(traffic(24.0, prompt=8000.0, output=50.0), queue=100_000).actions)
    swung = [
        any(isinstance(action, Relabel) for action in cluster.tick(traffic(80.0, prompt=500.0, output=900.0), running=3000.0).actions)
        for _ in range(3)
    ]
    assert swung == [False, False, True]  # ten, twenty and thirty seconds later


def test_little_to_gain_is_no_reason_to_change() -> None:
    """Both pools keep up with a few percent more of the demand: for that nobody leaves its role."""
    heard = heard_of_prompts(24.0, 2, 10)
    assert moves(heard, relabel_gain=0.05)
    assert not moves(heard, relabel_gain=0.99)


def test_who_will_be_replaced_does_not_change() -> None:
    """During a rolling update the idlest worker may be an old one, whose role cannot change: the next one does."""
    old = worker("old", Role.DECODE, running=0, outgoing=True)
    busy = tuple(worker(f"new{number}", Role.DECODE, running=5) for number in range(9))
    moved = [move.worker for move in moves(heard_of_prompts(24.0, 2, 0, (old, *busy)))]
    assert moved
    assert "old" not in moved
    assert not moves(heard_of_prompts(24.0, 2, 0, tuple(msgspec.structs.replace(each, outgoing=True) for each in busy)))


def test_who_will_be_replaced_is_not_woken() -> None:
    asleep = tuple(worker(name, Role.DECODE, Phase.SLEEPING, outgoing=name == "old") for name in ("old", "today"))
    made = scaler()
    plan, _ = made.plan(signals(60.0, 2, 2, others=asleep), made.first(), NOW_S)
    assert [action.worker for action in plan.actions if isinstance(action, Wake)] == ["today"]


# -- demand ----------------------------------------------------------------------------------------------------------------


def test_the_newest_arrivals_are_believed_when_they_are_no_chance() -> None:
    """Ten seconds of five times the rate are a burst, though the mean of a minute is far behind; a little more is not."""

    def asked(newest_per_s: float) -> float:
        heard = signals(6.0, 2, 2)
        heard = msgspec.structs.replace(heard, traffic=msgspec.structs.replace(heard.traffic, newest_per_s=Reading(newest_per_s)))
        made = scaler()
        return made.plan(heard, made.first(), NOW_S)[0].pools[0].demand_tokens_per_s or 0.0

    assert asked(30.0) == pytest.approx(5 * asked(6.0))
    assert asked(8.0) == asked(6.0)


def test_who_has_waited_leaves_less_time() -> None:
    """The same tokens wait, but for most of the promise already: more workers change roles for them."""
    heard = heard_of_prompts(4.0, 2, 20, queue=150_000.0)
    waited = msgspec.structs.replace(heard, prefill=msgspec.structs.replace(heard.prefill, queue_age_s=Reading(1.5)))
    assert len(moves(waited)) > len(moves(heard))


# -- letting go ------------------------------------------------------------------------------------------------------------


def test_what_stays_could_do_more() -> None:
    """With ``shrink_margin`` more workers are kept than the demand wants."""

    def left(margin: float) -> int:
        cluster = paper(scaler(shrink_margin=margin, shrink_after_s=20.0, shrink_every_s=10.0, relabel=False, mixes=False), 20, 20)
        for _ in range(60):
            cluster.tick(traffic(40.0))
        return len(cluster.workers)

    assert left(1.0) > left(0.0)


# -- holding ---------------------------------------------------------------------------------------------------------------


def test_a_hold_adds_nobody_for_a_role_that_changed() -> None:
    """Nothing is known of the moment, and somebody has given a worker another role, or the last plan's change did not happen: as many are
    there as were."""
    cluster = paper(scaler(), 3, 3)
    cluster.tick(traffic(20.0), running=60)
    cluster.workers[WorkerId("p0")] = worker("p0", Role.DECODE)
    assert cluster.tick(TrafficSignals()).held
    assert not cluster.plans[-1].actions

    made, heard = scaler(), heard_of_prompts(24.0, 2, 10)
    plan, state = made.plan(heard, made.first(), NOW_S)
    assert any(isinstance(action, Relabel) for action in plan.actions)
    plan, _ = made.plan(msgspec.structs.replace(heard, traffic=TrafficSignals()), state, NOW_S + 2.0)
    assert plan.held
    assert not [action for action in plan.actions if isinstance(action, Add | Drain)]
