"""Which ready workers change roles: at once, and for what is asked now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from autoscaler.plan import Relabel
from autoscaler.signals import WorkerSignal
from autoscaler.sizing import Need, Pool, fit
from core.worker import Role

OTHER = {Role.PREFILL: Role.DECODE, Role.DECODE: Role.PREFILL}


def to_minima(pools: Mapping[Role, Pool], have: Mapping[Role, int], ready: Mapping[Role, Sequence[WorkerSignal]]) -> list[Relabel]:
    """Those that a pool with fewer workers than its minimum gets from one with more than its own: limits hold whatever is asked.

    ``have`` are the ready and the starting ones.
    """
    for role, pool in pools.items():
        giver = OTHER[role]
        able = _able(ready[giver])
        moved = min(pool.least - have[role], have[giver] - pools[giver].least, len(able))
        if moved > 0:
            return [Relabel(worker.worker, role) for worker in able[:moved]]
    return []


def relabels(
    need: Need, pools: Mapping[Role, Pool], ready: Mapping[Role, Sequence[WorkerSignal]], gain: float, resting: Role | None
) -> list[Relabel]:
    """Those that let both pools keep up with more of the demand, by ``gain`` at least. Where both keep up already, nobody changes.

    With workers for everything, the short pool gets what it needs of what the other one can spare; with too few, both are
    left equally short. No worker leaves the role ``resting``: it has just come from the other one.
    """
    need = msgspec.structs.replace(need, mixed=False)  # each role is to do its own work, as far as there are workers
    have = {role: len(workers) for role, workers in ready.items()}
    before = need.share(have)
    if before >= 1.0:
        return []
    equal = {role: Pool(pool.least, pool.most) for role, pool in pools.items()}  # they are there already: nobody pays for them
    split = fit(need, equal, sum(have.values()))
    short = max(have, key=lambda role: split[role] - have[role])
    giver = OTHER[short]
    able = _able(ready[giver])
    moved = min(split[short] - have[short], have[giver] - split[giver], len(able))
    if moved <= 0 or giver is resting:
        return []
    after = need.share({short: have[short] + moved, giver: have[giver] - moved})
    if after - before < gain:
        return []
    return [Relabel(worker.worker, short) for worker in able[:moved]]


def _able(workers: Sequence[WorkerSignal]) -> list[WorkerSignal]:
    """Whose role can change, those first that have the least to finish."""
    return least_missed([worker for worker in workers if not worker.outgoing])


def least_missed(workers: Sequence[WorkerSignal]) -> list[WorkerSignal]:
    """Those first that have the least to finish."""
    return sorted(workers, key=lambda worker: (worker.running, worker.worker))
