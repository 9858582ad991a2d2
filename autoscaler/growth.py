"""Who is woken and started for what is to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoscaler.labels import OTHER
from autoscaler.plan import Add, Wake
from autoscaler.signals import WorkerSignal
from core.worker import Role


@dataclass(frozen=True, slots=True)
class Growth:
    """More workers."""

    wakes: Sequence[Wake] = ()
    adds: Sequence[Add] = ()
    no_room: Mapping[Role, int] = field(default_factory=dict)
    """Workers that are wanted, and for which there are no GPUs as long as others hold them."""

    def by(self, role: Role) -> int:
        """How many more of a role."""
        return sum(wake.role is role for wake in self.wakes) + sum(add.count for add in self.adds if add.role is role)


def missing(wanted: Mapping[Role, int], have: Mapping[Role, int], least: Mapping[Role, int], able: Mapping[Role, int]) -> dict[Role, int]:
    """Workers to get for each role. One too many of the other role, if it is one of the ``able`` there that can change, is as good as one:
    it will be relabelled. But not for a minimum: what it lacks is what nobody could be relabelled for."""
    short = {role: max(0, wanted[role] - have[role]) for role in wanted}
    over = sum(max(0, able[role] - wanted[role]) for role in wanted)
    short = _at_most(short, sum(short.values()) - over)
    return {role: max(count, least[role] - have[role]) for role, count in short.items()}


def spare(have: Mapping[Role, int], wanted: Mapping[Role, int], keep: int) -> dict[Role, int]:
    """Workers of each role that nobody wants, so that ``keep`` of both together stay."""
    return _at_most({role: max(0, have[role] - wanted[role]) for role in have}, sum(have.values()) - keep)


def grow(short: Mapping[Role, int], sleeping: Sequence[WorkerSignal], cost: Mapping[Role, float], free_gpus: float, swap: bool) -> Growth:
    """Sleeping ones first, of the own role where there are; then new ones, as long as there are GPUs: each to who lacks most."""
    wakes: list[Wake] = []
    rest: dict[Role, int] = {}
    left = list(sleeping)
    for role, count in short.items():
        usable = [worker for worker in left if worker.role is role] + [worker for worker in left if swap and worker.role is OTHER[role]]
        woken = usable[:count]
        left = [worker for worker in left if worker not in woken]
        wakes += [Wake(worker.worker, role) for worker in woken]
        rest[role] = count - len(woken)
    added = dict.fromkeys(rest, 0)
    while affordable := [role for role, count in rest.items() if count and cost[role] <= free_gpus + 1e-9]:
        role = max(affordable, key=rest.__getitem__)
        rest[role], added[role], free_gpus = rest[role] - 1, added[role] + 1, free_gpus - cost[role]
    return Growth(
        wakes, [Add(role, count) for role, count in added.items() if count], {role: count for role, count in rest.items() if count}
    )


def _at_most(counts: dict[Role, int], total: int) -> dict[Role, int]:
    """No more than ``total`` together: the larger ones go first."""
    rest = max(0, total)
    for role in sorted(counts, key=lambda role: -counts[role]):
        counts[role] = min(counts[role], rest)
        rest -= counts[role]
    return counts
