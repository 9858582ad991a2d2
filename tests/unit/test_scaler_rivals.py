"""The scalers Baton's is compared with, each held to its own published rule."""

from __future__ import annotations

import msgspec
import pytest

from autoscaler.base import Scaler
from autoscaler.counts import within_budget
from autoscaler.dynamo_planner import DynamoPlanner
from autoscaler.local_trend import LocalTrend
from autoscaler.plan import Relabel, Wake
from autoscaler.policy import Objective, PoolLimits, ScalerLimits
from autoscaler.proportional import ProportionalScaler
from autoscaler.scaler import BatonScaler
from autoscaler.signals import Phase, PoolSignals, Reading, Signals, TrafficSignals
from autoscaler.static import StaticScaler
from core.worker import Role
from tests.support.scaling import OBJECTIVE, limits, paper, policy, signals, traffic, worker

BOUNDS = limits(1, 12, 16)
ALL: list[Scaler] = [  # type: ignore[type-arg]  # their states differ
    StaticScaler(3, 5),
    ProportionalScaler(BOUNDS, 4.0, 60.0),
    DynamoPlanner(BOUNDS, OBJECTIVE),
    DynamoPlanner(BOUNDS, OBJECTIVE, load_loop=False),
    BatonScaler(BOUNDS, policy()),
]


@pytest.mark.parametrize("scaler", ALL, ids=lambda scaler: scaler.name)
def test_all_keep_within_limits(scaler: Scaler) -> None:  # type: ignore[type-arg]
    """One interface, one suite: whoever scales keeps a pool's limits and the budget, names itself, and its plans and states are JSON."""
    cluster = paper(scaler, 2, 2)
    for rate in (*[5.0] * 40, *[300.0] * 60, *[0.5] * 60):
        plan = cluster.tick(traffic(rate), queue=rate * 200, running=rate * 6)
        assert plan.scaler == scaler.name
        assert sum(seen.phase is not Phase.SLEEPING for seen in cluster.workers.values()) <= 16
        assert all(1 <= cluster.count(role) <= 12 for role in Role)
    msgspec.json.encode(cluster.state)
    msgspec.json.encode(plan)


def test_static_replaces_and_nothing_else() -> None:
    """The same numbers at any load; lost workers come back."""
    cluster = paper(StaticScaler(2, 3), 2, 3)
    assert not cluster.tick(traffic(500.0)).actions
    cluster.workers.pop(next(iter(cluster.workers)))
    cluster.tick(traffic(0.0))
    assert (cluster.count(Role.PREFILL), cluster.count(Role.DECODE)) == (2, 3)


def running(prefill: float, decode: float, *, workers: tuple[int, int] = (2, 4)) -> Signals:
    heard = signals(5.0, *workers)
    return msgspec.structs.replace(heard, prefill=PoolSignals(running=Reading(prefill)), decode=PoolSignals(running=Reading(decode)))


@pytest.mark.parametrize(
    ("prefill", "decode", "wanted"),
    [
        (8.0, 240.0, (2, 4)),
        (8.7, 262.0, (2, 4)),  # within a tenth
        (11.0, 480.0, (3, 8)),
        (80.0, 5000.0, (6, 8)),  # four more, or twice as many, at once
    ],
)
def test_proportional(prefill: float, decode: float, wanted: tuple[int, int]) -> None:
    """ceil(requests / right number per worker), a tolerance of a tenth, and no more than the fastest growth."""
    scaler = ProportionalScaler(limits(1, 50), 4.0, 60.0)
    plan, _ = scaler.plan(running(prefill, decode), scaler.first(), 0.0)
    assert tuple(plan.target(role) for role in Role) == wanted


def test_proportional_shrinks_to_the_largest_of_five_minutes() -> None:
    """What was right within the last five minutes is kept."""
    cluster = paper(ProportionalScaler(limits(1, 50), 4.0, 60.0), 1, 1)
    for _ in range(10):
        cluster.tick(traffic(1.0), running=600)
    assert cluster.count(Role.DECODE) == 10
    sizes = []
    for _ in range(60):
        cluster.tick(traffic(1.0), running=60)
        sizes.append(cluster.count(Role.DECODE))
    assert sizes[28] == 10
    assert sizes[-1] == 1


def test_dynamo_throughput_loop() -> None:
    """Every 180 s, ceil(requests/s over what one engine does), whatever happens in between."""
    cluster = paper(DynamoPlanner(limits(1, 50), OBJECTIVE, load_loop=False), 2, 2)
    sizes = []
    for _ in range(40):
        cluster.tick(traffic(40.0))
        sizes.append((cluster.count(Role.PREFILL), cluster.count(Role.DECODE)))
    assert set(sizes[:18]) == {(2, 2)}
    assert len(set(sizes[18:])) == 1
    # 3,000 tokens alone take 0.069 s; 102 requests of 4,150 tokens take 25 ms a step.
    assert sizes[-1] == (3, 3)


def test_dynamo_load_loop() -> None:
    """One more where all miss; none while one starts; one fewer where all would keep four fifths of the objective."""
    scaler = DynamoPlanner(limits(1, 50), OBJECTIVE)
    late = msgspec.structs.replace(running(200.0, 20.0, workers=(2, 4)), prefill=PoolSignals(Reading(0.0), None, Reading(200.0)))
    late = msgspec.structs.replace(late, decode=PoolSignals(running=Reading(20.0)))
    plan, _ = scaler.plan(late, scaler.first(), 0.0)
    assert [plan.target(role) for role in Role] == [3, 3]
    starting = msgspec.structs.replace(late, workers=(*late.workers, worker("new", Role.PREFILL, Phase.STARTING)))
    plan, _ = scaler.plan(starting, scaler.first(), 0.0)
    assert plan.target(Role.PREFILL) == 3


def test_dynamo_keeps_room_for_answers() -> None:
    """It lets no decode worker go whose answers would not fit into the others' KV cache, however fast their steps."""
    scaler = DynamoPlanner(limits(1, 50), Objective(2.0, 10.0))
    counts = [scaler.plan(signals(5.0, 1, 4, running=answers), scaler.first(), 0.0)[0].target(Role.DECODE) for answers in (200.0, 320.0)]
    assert counts == [3, 4]  # of 98 answers of 4,150 tokens each


def test_dynamo_follows_a_trend() -> None:
    """With the kalman predictor, of demand that grows by as much in every interval the next one is foreseen; with the constant one, the
    last is expected again. Both every ``interval_s``."""
    sizes: dict[bool, int] = {}
    for follows_trend in (False, True):
        cluster = paper(DynamoPlanner(limits(1, 500), OBJECTIVE, load_loop=False, interval_s=60.0, follows_trend=follows_trend), 2, 2)
        for number in range(60):
            cluster.tick(traffic(20.0 * (1 + number // 6)))
        sizes[follows_trend] = cluster.count(Role.DECODE)
    assert sizes[True] >= 1.08 * sizes[False]


def test_a_local_trend() -> None:
    """It finds a line and goes on along it, never below 0; of nothing it expects nothing."""
    rising, falling = LocalTrend(), LocalTrend()
    assert rising.next == 0.0
    for number in range(40):
        rising, falling = rising.seen(100.0 + 5 * number), falling.seen(200.0 - 5 * number)
    assert rising.next == pytest.approx(300.0, rel=0.01)
    assert falling.next == pytest.approx(0.0, abs=2.0)
    assert falling.seen(-50.0).next >= 0.0


def test_rivals_hold_what_they_do_not_know() -> None:
    """Without signals nobody of them moves."""
    for scaler in ALL[1:4]:
        plan, _ = scaler.plan(Signals(TrafficSignals(), workers=signals(1.0, 3, 3).workers), scaler.first(), 0.0)
        assert not plan.actions


def test_rivals_neither_relabel_nor_wake() -> None:
    """They add and drain."""
    for scaler in ALL[:4]:
        cluster = paper(scaler, 2, 6)
        for _ in range(60):
            cluster.tick(traffic(60.0), queue=1e5, running=300)
        assert not any(isinstance(action, Relabel | Wake) for plan in cluster.plans for action in plan.actions)


def test_a_budget_as_dynamo_divides_it() -> None:
    """Prefill's share is rounded down, decode gets the rest."""
    bounds = ScalerLimits(PoolLimits(1, 50), PoolLimits(1, 50, 2.0), 16)
    assert within_budget({Role.PREFILL: 10, Role.DECODE: 10}, bounds) == {Role.PREFILL: 5, Role.DECODE: 5}
    assert within_budget({Role.PREFILL: 2, Role.DECODE: 3}, bounds) == {Role.PREFILL: 2, Role.DECODE: 3}
