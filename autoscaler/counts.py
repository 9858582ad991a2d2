"""For scalers that want numbers of workers and nothing else: what to do to reach them, and how to say it."""

from __future__ import annotations

from collections.abc import Mapping

from autoscaler.plan import Action, Add, Plan, PoolReport
from autoscaler.policy import PoolLimits, ScalerLimits
from autoscaler.shrink import drains
from autoscaler.signals import Phase, Signals, present
from core.worker import Role


def reach(scaler: str, signals: Signals, wanted: Mapping[Role, int], now_s: float, held: str = "") -> Plan:
    """Adds and drains, at once, until both pools are as large as wanted. Nobody is relabelled, nobody woken."""
    actions: list[Action] = []
    reports: list[PoolReport] = []
    for role, count in wanted.items():
        here = present(signals.of(role))
        if count > len(here):
            actions.append(Add(role, count - len(here)))
        actions += drains(here, role, len(here) - count, 0) if count < len(here) else []
        ready, starting = len(signals.of(role, Phase.READY)), len(signals.of(role, Phase.STARTING))
        asleep, leaving = len(signals.of(role, Phase.SLEEPING)), len(signals.of(role, Phase.DRAINING))
        reports.append(PoolReport(role, ready, starting, count, asleep, leaving, wanted=count))
    return Plan(now_s, scaler, tuple(reports), tuple(actions), held)


def counts(signals: Signals) -> dict[Role, int]:
    """Ready and starting workers."""
    return {role: len(present(signals.of(role))) for role in Role}


def clamp(count: int, bounds: PoolLimits) -> int:
    """Within a pool's limits."""
    return max(bounds.min_workers, min(count, bounds.max_workers))


def within_budget(wanted: Mapping[Role, int], limits: ScalerLimits) -> dict[Role, int]:
    """Prefill's share of what is wanted, rounded, and what is left for decode: as Dynamo's planner divides its ``max_gpu_budget``."""
    cost = {role: limits.pool(role).gpus_per_worker for role in Role}
    total = sum(cost[role] * count for role, count in wanted.items())
    if total <= limits.budget:
        return dict(wanted)
    prefill = max(limits.prefill.min_workers, int(wanted[Role.PREFILL] * limits.budget / total))
    left = (limits.budget - prefill * cost[Role.PREFILL]) / cost[Role.DECODE]
    return {Role.PREFILL: prefill, Role.DECODE: max(limits.decode.min_workers, min(wanted[Role.DECODE], int(left)))}
