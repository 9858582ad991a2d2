"""The controller's table of workers, and the pure plan that brings it in line with what the configuration asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from cluster.channel import ChannelKeys
from cluster.lifecycle import DIED_DRAINING, Event, Instruction, Limits, WorkerRecord, transition
from core.ids import WorkerId
from core.worker import Role, WorkerCard, WorkerState


class Membership(msgspec.Struct, frozen=True):
    """What routers are told: who can be sent work, and with which key. ``version`` grows with every change."""

    version: int
    cards: list[WorkerCard]
    router_keys: ChannelKeys


@dataclass(frozen=True, slots=True)
class Create:
    """Start a worker with this role. ``after_s`` from now: a place whose workers keep dying is filled ever more slowly."""

    role: Role
    restarts: int = 0
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Drain:
    """Take a worker out of service once it is idle."""

    worker: WorkerId


Action = Create | Drain

ENDED_ON_PURPOSE = frozenset({"drained", "stopped", "stopped before it was ready", DIED_DRAINING})
"""Phases of gone workers that somebody wanted gone; all the others died."""

_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 60.0
_LONG_LIFE_S = 600.0


class Members:
    """All workers the controller knows, dead ones included until they are replaced."""

    def __init__(self) -> None:
        self.version = 0
        self._records: dict[WorkerId, WorkerRecord] = {}

    def __iter__(self) -> Iterator[WorkerRecord]:
        return iter(tuple(self._records.values()))

    def __contains__(self, worker: WorkerId) -> bool:
        return worker in self._records

    def get(self, worker: WorkerId) -> WorkerRecord | None:
        return self._records.get(worker)

    def enter(self, record: WorkerRecord) -> None:
        """A worker was created or found."""
        self._records[record.worker] = record
        self.version += 1

    def remove(self, worker: WorkerId) -> None:
        """A gone worker needs no memory any more."""
        if self._records.pop(worker, None):
            self.version += 1

    def apply(self, worker: WorkerId, event: Event, now_s: float, limits: Limits) -> list[Instruction]:
        """Feeds one event; unknown workers are ignored (a late answer of one that was removed)."""
        before = self._records.get(worker)
        if before is None:
            return []
        after, instructions = transition(before, event, now_s, limits)
        self._records[worker] = after
        if (before.state, before.card) != (after.state, after.card):
            self.version += 1
        return instructions

    def cards(self) -> list[WorkerCard]:
        """What routers may know: every worker that is ready, or still has work of theirs."""
        return [
            msgspec.structs.replace(record.card, state=record.state)
            for record in self._records.values()
            if record.card is not None and record.state in (WorkerState.READY, WorkerState.DRAINING)
        ]


def reconcile(records: Iterable[WorkerRecord], wanted: Mapping[Role, int], spec_hashes: Mapping[Role, str]) -> list[Action]:
    """What is to be done so that every pool has the wanted number of workers of today's configuration.

    Dead workers are replaced (with back-off). Those too many are drained, of an older configuration first, then the oldest.
    Workers of an older configuration are replaced one at a time over all pools, and only while everybody is ready: as long
    as its one worker of a pool loads, the other pool serves alone. Asked again before the actions took effect it may answer
    the same.
    """
    actions: list[Action] = []
    by_role: dict[Role, list[WorkerRecord]] = {role: [] for role in wanted}
    for record in records:
        by_role[record.role].append(record)
    settled = all(record.state is WorkerState.READY for pool in by_role.values() for record in pool)
    settled = settled and all(len(by_role[role]) == count for role, count in wanted.items())
    for role, count in wanted.items():
        alive = [r for r in by_role[role] if r.state in (WorkerState.STARTING, WorkerState.READY)]
        least_wanted_first = sorted(alive, key=lambda r: (r.spec_hash == spec_hashes[role], r.created_at_s))
        leaving = least_wanted_first[: max(0, len(alive) - count)]
        stale = [r for r in alive if r.spec_hash != spec_hashes[role]]
        if not leaving:  # one that has not even started serves nobody: it may go at once
            leaving = [r for r in stale if r.state is WorkerState.STARTING]
        if settled and stale:
            leaving, settled = stale[:1], False
        actions += [Drain(r.worker) for r in leaving]
        dead = [r for r in by_role[role] if r.state is WorkerState.GONE and r.phase not in ENDED_ON_PURPOSE]
        for missing in range(count - len(alive)):
            restarts = _restarts(dead[missing]) if missing < len(dead) else 0
            actions.append(Create(role, restarts, _backoff_s(restarts)))
    return actions


def _restarts(dead: WorkerRecord) -> int:
    """The count of a dead worker's replacement. One that lived long did not die of its start: the count begins anew."""
    return 1 if dead.heard_at_s - dead.created_at_s > _LONG_LIFE_S else dead.restarts + 1


def _backoff_s(restarts: int) -> float:
    doublings = min(restarts - 2, 16)  # by far the longest already; a float overflows after a day of deaths
    return 0.0 if restarts <= 1 else min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0**doublings)
