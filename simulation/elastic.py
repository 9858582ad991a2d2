"""A simulated cluster whose workers come, go and change roles as a scaler wants it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from autoscaler.base import Scaler, State
from autoscaler.plan import Action, Add, Drain, Plan, Relabel, Wake
from autoscaler.signals import Phase, Signals, WorkerSignal
from core.ids import RouterId, WorkerId
from core.worker import Role, WorkerState
from simulation.cluster import Cluster, ClusterSpec
from simulation.vitals import Vitals
from simulation.worker import SimWorker

_PHASES = {WorkerState.READY: Phase.READY, WorkerState.DRAINING: Phase.DRAINING}


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast things happen that a scaler waits for."""

    every_s: float = 5.0
    """Between two plans."""
    start_up_s: float = 60.0
    start_up_spread: float = 0.2
    """Part of that by which starts differ, either way."""
    look_s: float = 0.5
    """Between two looks at whether a draining worker is done."""


@dataclass(slots=True)
class Life:
    """Of one worker, from being asked for to being gone."""

    role: Role
    asked_s: float
    start_up_s: float | None = None
    """None for those that were there from the beginning."""
    ended_s: float | None = None
    given_up: bool = False
    """It was told to go before it was ready."""


class ElasticCluster(Cluster):
    """``plans`` are all that were made; ``lives`` are everybody's who ever was. Workers that drain take what time they need."""

    def __init__(self, spec: ClusterSpec, seed: int, scaler: Scaler[State] | None, pace: Pace = Pace()) -> None:
        """Without a scaler workers come and go only as they are told to."""
        super().__init__(spec, seed)
        self.plans: list[Plan] = []
        self.lives = {name: Life(worker.card.role, 0.0) for name, worker in self.workers.items()}
        self._kinds = {pool.role: pool for pool in spec.pools}
        self._pace = pace
        self._starts = random.Random(seed)
        self._vitals = Vitals(self.records, self.routers)

        if scaler is not None:
            self._scale(scaler)

    def _scale(self, scaler: Scaler[State]) -> None:
        state = scaler.first()

        def turn() -> None:
            nonlocal state
            plan, state = scaler.plan(self._signals(), state, self.clock.now())
            self.plans.append(plan)
            if not plan.dry_run:
                for action in plan.actions:
                    self._carry_out(action)
            self.clock.later(self._pace.every_s, turn)

        self.clock.later(self._pace.every_s, turn)

    def kill(self, name: WorkerId, back_after_s: float | None) -> bool:
        """Ends a worker with all that it has; False: it is not there. Routers notice after ``lost_after_s``. A new one, with another name,
        is ready ``back_after_s`` after that; None: never."""
        worker = self.workers.pop(name, None)
        if worker is None:
            return False
        worker.die()
        life = self.lives[name]
        life.ended_s, role = self.clock.now(), worker.card.role

        def noticed() -> None:
            for router in self.routers:
                router.dispatcher.link_closed(name, "it was killed")
            if back_after_s is not None:
                self._begin_life(role, back_after_s)

        self.clock.later(self.spec.lost_after_s, noticed)
        return True

    def worker_seconds(self, until_s: float, role: Role | None = None) -> float:
        """What all workers cost that ever were, or those that began with a role: from being asked for to being gone."""
        return sum(
            min(until_s, until_s if life.ended_s is None else life.ended_s) - min(until_s, life.asked_s)
            for life in self.lives.values()
            if role in (None, life.role)
        )

    def _signals(self) -> Signals:
        now_s = self.clock.now()
        traffic, prefill, decode = self._vitals.look(now_s)
        return Signals(traffic, prefill, decode, tuple(self._workers_signals(now_s)))

    def _workers_signals(self, now_s: float) -> Sequence[WorkerSignal]:
        seen: list[WorkerSignal] = []
        for name, life in self.lives.items():
            worker = self.workers.get(name)
            if worker is not None:
                load = worker.load()
                phase, card = _PHASES[worker.card.state], worker.card
                running = load.running + load.waiting
                age_s = now_s - life.asked_s
                seen.append(WorkerSignal(name, card.role, phase, age_s, card.facts, load.step, True, life.start_up_s, running))
            elif life.ended_s is None:
                seen.append(WorkerSignal(name, life.role, Phase.STARTING, now_s - life.asked_s))
        return seen

    # -- what plans want -----------------------------------------------------------------------------------------------

    def _carry_out(self, action: Action) -> None:
        match action:
            case Relabel():
                worker = self.workers[action.worker]
                worker.become(msgspec.structs.replace(worker.card, role=action.role))
            case Add():
                for _ in range(action.count):
                    self._ask_for(action.role)
            case Drain():
                self._drain(action.worker)
            case Wake():
                raise ValueError("nobody sleeps in a simulation")

    def _ask_for(self, role: Role) -> None:
        self._begin_life(role, self._pace.start_up_s * (1 + self._pace.start_up_spread * self._starts.uniform(-1, 1)))

    def _begin_life(self, role: Role, takes_s: float) -> None:
        name = WorkerId(f"{role}-{len(self.lives)}")
        self.lives[name] = Life(role, self.clock.now(), takes_s)
        self.clock.later(takes_s, lambda: self._started(name))

    def _started(self, name: WorkerId) -> None:
        life = self.lives[name]
        if life.given_up:
            return
        worker = self._worker(self._kinds[life.role], name)
        self.workers[name] = worker
        for number, router in enumerate(self.routers):
            self._link(RouterId(f"router-{number}"), router, worker)
        worker.start(0.0)

    def _drain(self, name: WorkerId) -> None:
        worker = self.workers.get(name)
        if worker is None:
            self.lives[name].given_up, self.lives[name].ended_s = True, self.clock.now()
            return
        worker.become(msgspec.structs.replace(worker.card, state=WorkerState.DRAINING))
        self._end_when_idle(worker)

    def _end_when_idle(self, worker: SimWorker) -> None:
        """Idle twice in a row: what a router had sent before it heard has come by then. And what it has said is heard before it is gone."""

        def look(was_idle: bool) -> None:
            if self.workers.get(worker.card.worker) is not worker:
                return  # killed meanwhile
            if was_idle and worker.idle:
                worker.end()
                self.clock.later(self._pace.look_s, lambda: self._gone(worker))
            else:
                is_idle = worker.idle
                self.clock.later(self._pace.look_s, lambda: look(is_idle))

        look(False)

    def _gone(self, worker: SimWorker) -> None:
        name = worker.card.worker
        for router in self.routers:
            router.dispatcher.link_closed(name, "it was drained")
        del self.workers[name]
        self.lives[name].ended_s = self.clock.now()
