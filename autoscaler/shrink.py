"""Who may go: slowly, and only who has not been wanted for long. What is beyond a limit goes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoscaler.growth import Growth, spare
from autoscaler.labels import least_missed
from autoscaler.memory import BatonState
from autoscaler.plan import Drain
from autoscaler.policy import ScalerPolicy
from autoscaler.signals import Phase, WorkerSignal
from autoscaler.sizing import Pool
from core.worker import Role


def beyond_limits(have: Mapping[Role, int], wanted: Mapping[Role, int], pools: Mapping[Role, Pool], budget: float) -> dict[Role, int]:
    """Workers beyond a pool's maximum; and beyond what is wanted within the budget, where all together are too dear."""
    is_too_dear = sum(pools[role].cost * count for role, count in have.items()) > budget + 1e-9
    most = {role: min(pool.most, wanted[role]) if is_too_dear else pool.most for role, pool in pools.items()}
    return {role: max(0, have[role] - most[role]) for role in have}


def not_wanted(
    have: Mapping[Role, int],
    keep: Mapping[Role, int],
    growth: Growth,
    state: BatonState,
    policy: ScalerPolicy,
    patience_s: float,
    now_s: float,
    swap: bool,
) -> dict[Role, int]:
    """Workers that could have been done without for ``patience_s``, a few of them at a time, and rarely."""
    watched = state.watched_s is not None and now_s - state.watched_s >= patience_s
    rested = state.shrunk_s is None or now_s - state.shrunk_s >= policy.shrink_every_s
    if not (watched and rested):
        return dict.fromkeys(have, 0)
    if swap:
        grows = growth.wakes or growth.adds
        over = dict.fromkeys(have, 0) if grows else spare(have, keep, max(old.prefill + old.decode for old in state.wanted))
    else:
        over = {role: 0 if growth.by(role) else max(0, have[role] - max(old.of(role) for old in state.wanted)) for role in have}
    return {role: min(count, max(1, int(have[role] * policy.shrink_share))) for role, count in over.items()}


def drains(workers: Sequence[WorkerSignal], role: Role, count: int, beds: int) -> list[Drain]:
    """Those that go: first who has not even started, the newest before the others; then who has the least to finish.

    Of the ready ones whose engines can, as many as there are ``beds`` are put to sleep.
    """
    starting = sorted((w for w in workers if w.phase is Phase.STARTING), key=lambda w: (w.age_s, w.worker))
    chosen = [*starting, *least_missed([w for w in workers if w.phase is Phase.READY])][:count]
    sleepers = [worker for worker in chosen if worker.phase is Phase.READY and worker.facts is not None and worker.facts.can_sleep][:beds]
    return [Drain(worker.worker, role, worker in sleepers) for worker in chosen]
