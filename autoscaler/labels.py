"""Which ready workers change roles: at once, and for what is asked now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from autoscaler.plan import Relabel
from autoscaler.signals import WorkerSignal
from autoscaler.sizing import Need, Pool, fit
from core.worker import Role

OTHER = {Role.PREFILL: Role.DECODE, Role.DECODE: Role.PREFILL}


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
    moved = min(split[short] - have[short], have[giver] - split[giver])
    if moved <= 0 or giver is resting:
        return []
    after = need.share({short: have[short] + moved, giver: have[giver] - moved})
    if after - before < gain:
        return []
    return [Relabel(worker.worker, short) for worker in least_missed(ready[giver])[:moved]]


def least_missed(workers: Sequence[WorkerSignal]) -> list[WorkerSignal]:
    """Those first that have the least to finish."""
    return sorted(workers, key=lambda worker: (worker.running, worker.worker))
