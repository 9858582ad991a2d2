"""A pool of workers on paper: it carries out a scaler's plans, and tells it what it would be told of a real one."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from autoscaler.base import Scaler
from autoscaler.plan import Add, Drain, Plan, Relabel, Wake
from autoscaler.policy import Objective, PoolLimits, ScalerLimits, ScalerPolicy
from autoscaler.shared_budget import Grant
from autoscaler.signals import Phase, PoolSignals, Reading, Signals, TrafficSignals, WorkerSignal
from core.ids import WorkerId
from core.step_model import StepModel
from core.worker import EngineFacts, Role

FACTS = EngineFacts(
    block_size_tokens=128, num_blocks=3200, max_model_len=131_072, max_num_seqs=256, max_num_batched_tokens=2048, can_sleep=True
)
STEP = StepModel(0.004, 1.9e-5, 4.8e-10, 0.0063, 1.2e-5, 4.1e-8)
"""Llama-3.1-8B on an H100, about."""
OBJECTIVE = Objective(2.0, 0.025)
START_UP_S = 60.0


def limits(least: int = 1, most: int = 64, budget: float | None = None) -> ScalerLimits:
    """Both pools alike."""
    return ScalerLimits(PoolLimits(least, most), PoolLimits(least, most), budget)


def policy(**changes: object) -> ScalerPolicy:
    """Without seasons: the library for them takes seconds to load."""
    return msgspec.structs.replace(ScalerPolicy(objective=OBJECTIVE, season_s=None), **changes)


def worker(name: str, role: Role, phase: Phase = Phase.READY, **changes: object) -> WorkerSignal:
    """A warm one that has measured its steps."""
    seen = WorkerSignal(WorkerId(name), role, phase, 1000.0, FACTS, STEP, True, START_UP_S)
    return msgspec.structs.replace(seen, **changes)


def traffic(rate: float, prompt: float = 4000.0, output: float = 300.0, hits: float = 0.25, age_s: float = 0.0) -> TrafficSignals:
    """So many requests a second."""
    return TrafficSignals(Reading(rate, age_s), Reading(rate, age_s), Reading(prompt, age_s), Reading(output, age_s), Reading(hits, age_s))


def signals(
    rate: float,
    prefill: int,
    decode: int,
    *,
    queue: float = 0.0,
    running: float = 0.0,
    prompt: float = 4000.0,
    output: float = 300.0,
    others: tuple[WorkerSignal, ...] = (),
) -> Signals:
    """So many ready workers, and others."""
    workers = [worker(f"p{number}", Role.PREFILL) for number in range(prefill)]
    workers += [worker(f"d{number}", Role.DECODE) for number in range(decode)]
    waits = PoolSignals(Reading(queue), Reading(0.0), Reading(0.0))
    return Signals(traffic(rate, prompt, output), waits, PoolSignals(Reading(0.0), None, Reading(running)), (*workers, *others))


@dataclass(slots=True)
class Paper:
    """``tick`` is one turn of the loop. Drained workers are gone at the next one, new ones ready after their start-up time."""

    scaler: Scaler[object]
    state: object
    now_s: float = 1_000_000.0
    workers: dict[WorkerId, WorkerSignal] = field(default_factory=dict)
    asked_s: dict[WorkerId, float] = field(default_factory=dict)
    plans: list[Plan] = field(default_factory=list)
    granted: Grant | None = None
    _count: int = 0

    def count(self, role: Role, *phases: Phase) -> int:
        """Workers of a role in these phases; ready and starting ones, if none is named."""
        wanted = phases or (Phase.READY, Phase.STARTING)
        return sum(seen.role is role and seen.phase in wanted for seen in self.workers.values())

    def tick(self, asked: TrafficSignals, seconds: float = 10.0, queue: float = 0.0, running: float = 0.0) -> Plan:
        """The time passes, then a plan is made and carried out."""
        self.now_s += seconds
        for name, seen in self.workers.items():
            if seen.phase is Phase.STARTING:
                age_s = self.now_s - self.asked_s[name]
                self.workers[name] = worker(name, seen.role) if age_s >= START_UP_S else msgspec.structs.replace(seen, age_s=age_s)
        heard = Signals(
            asked,
            PoolSignals(Reading(queue), Reading(0.0), Reading(queue / 4000)),
            PoolSignals(Reading(0.0), None, Reading(running)),
            tuple(self.workers.values()),
            self.granted,
        )
        plan, self.state = self.scaler.plan(heard, self.state, self.now_s)
        self.plans.append(plan)
        for action in plan.actions:
            self._carry_out(action)
        return plan

    def _carry_out(self, action: object) -> None:
        match action:
            case Relabel():
                assert self.workers[action.worker].role is not action.role
                self.workers[action.worker] = msgspec.structs.replace(self.workers[action.worker], role=action.role)
            case Wake():
                assert self.workers[action.worker].phase is Phase.SLEEPING
                self.workers[action.worker] = worker(action.worker, action.role)
            case Add():
                for _ in range(action.count):
                    self._count += 1
                    name = WorkerId(f"new-{self._count}")
                    self.workers[name] = WorkerSignal(name, action.role, Phase.STARTING)
                    self.asked_s[name] = self.now_s
            case Drain():
                gone = self.workers.pop(action.worker)
                if action.then_sleep:
                    self.workers[action.worker] = msgspec.structs.replace(gone, phase=Phase.SLEEPING)


def paper(scaler: Scaler, prefill: int = 1, decode: int = 1) -> Paper:  # type: ignore[type-arg]  # any scaler
    """With so many ready workers."""
    made = Paper(scaler, scaler.first())
    for number in range(prefill):
        made.workers[WorkerId(f"p{number}")] = worker(f"p{number}", Role.PREFILL)
    for number in range(decode):
        made.workers[WorkerId(f"d{number}")] = worker(f"d{number}", Role.DECODE)
    return made
