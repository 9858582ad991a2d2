"""What the controller counts of scaling, for Prometheus. Told of every plan; decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from autoscaler.plan import Action, Add, Drain, Plan, PoolReport, Relabel, Wake
from autoscaler.signals import Signals
from cluster.signals.base import named
from core.metrics import of_scaling as m
from core.metrics.tally import Counts, Levels, Reading, Spreads
from core.metrics.words import ScalingAction
from core.worker import Role


class ScalingTally:
    """One per controller life, where there is a scaler."""

    def __init__(self) -> None:
        self._actions = Counts(m.ACTIONS, product(ScalingAction, Role))
        self._failed_actions = Counts(m.FAILED_ACTIONS, [(kind,) for kind in ScalingAction])
        self._failed_rounds = Counts(m.FAILED_ROUNDS)
        self._plan_s = Spreads(m.PLAN)
        self._newest: tuple[Signals, Plan] | None = None

    def planned(self, signals: Signals, plan: Plan, seconds: float, actions: Iterable[Action]) -> None:
        """A plan was made from these; ``actions`` are those of it that are new."""
        self._newest = (signals, plan)
        self._plan_s.observe(seconds)
        for action in actions:
            self._actions.add(kind_of(action), action.role, by=action.count if isinstance(action, Add) else 1)

    def failed(self) -> None:
        """A round raised."""
        self._failed_rounds.add()

    def failed_to(self, action: Action) -> None:
        """One of a plan's actions could not be done."""
        self._failed_actions.add(kind_of(action))

    def readings(self) -> Sequence[Reading]:
        """With the newest plan."""
        counted = (self._actions, self._failed_actions, self._failed_rounds, self._plan_s)
        if self._newest is None:
            return counted
        signals, plan = self._newest
        inputs, ages = Levels(m.INPUT), Levels(m.INPUT_AGE)
        known = named(signals)
        for name, reading in known.items():
            inputs.set(reading.value, name)
        if known:
            ages.set(max(reading.age_s for reading in known.values()))
        about = (Levels(m.HELD).set(bool(plan.held)), Levels(m.WARNINGS).set(len(plan.warnings)))
        return (inputs, ages, *about, *_of_pools(plan.pools), *counted)


def kind_of(action: Action) -> ScalingAction:
    """In one word."""
    match action:
        case Relabel():
            return ScalingAction.RELABEL
        case Wake():
            return ScalingAction.WAKE
        case Add():
            return ScalingAction.ADD
        case Drain():
            return ScalingAction.SLEEP if action.then_sleep else ScalingAction.DRAIN


def _of_pools(pools: Sequence[PoolReport]) -> list[Reading]:
    """What is not known is left out."""
    demand, forecast, horizon, capacity = (Levels(entry) for entry in (m.DEMAND, m.FORECAST, m.HORIZON, m.CAPACITY))
    needed, target, clamped = (Levels(entry) for entry in (m.NEEDED, m.TARGET, m.CLAMPED))
    for pool in pools:
        target.set(pool.target, pool.role)
        clamped.set(pool.limited, pool.role)
        known = {
            demand: pool.demand_tokens_per_s,
            forecast: pool.forecast_tokens_per_s,
            horizon: pool.horizon_s,
            capacity: pool.worker_tokens_per_s,
            needed: pool.wanted,
        }
        for levels, value in known.items():
            if value is not None:
                levels.set(value, pool.role)
    return [demand, forecast, horizon, capacity, needed, target, clamped]
