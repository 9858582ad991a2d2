"""The controller's table of workers, and the pure plan that brings it in line with what the configuration asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from cluster.channel import ChannelKeys
from cluster.coming import Coming
from cluster.lifecycle import Event, Instruction, Limits, WorkerRecord, transition
from core.ids import WorkerId
from core.worker import Role, WorkerCard, WorkerState


class Membership(msgspec.Struct, frozen=True):
    """What routers are told: who can be sent work, and with which key. ``version`` grows with every change."""

    version: int
    cards: list[WorkerCard]
    router_keys: ChannelKeys
    coming: Coming = Coming()


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

NO_ROOM_S = 20.0
"""A worker of which nothing has been heard for so long since it was asked for waits for room in the cluster."""

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


def reconcile(
    records: Iterable[WorkerRecord],
    wanted: Mapping[Role, int],
    spec_hashes: Mapping[Role, str],
    now_s: float,
    surge: Mapping[Role, int] | None = None,
    asked: Collection[WorkerId] = (),
    pending: Mapping[Role, int] | None = None,
) -> list[Action]:
    """What is to be done so that every pool has the wanted number of workers of today's configuration.

    Dead workers are replaced, with back-off; draining ones at once. Those too many are drained, in the order of ``usefulness``.
    Outgoing are workers of an older configuration and those that somebody ``asked`` to drain. A pool with ``surge`` starts so
    many replacements beyond its number and drains an outgoing worker for each that is ready; one that waits for room in the
    cluster is made room for. Without, a worker that was asked to go goes at once, and workers of an older configuration
    go one at a time over all pools, while everybody is ready: as long as its one worker of a pool loads, the other pool serves
    alone. Sleeping workers count for nothing, and are let sleep, but for outgoing ones. ``pending`` are workers whose start was
    decided and that are not among the records yet. Asked again before the actions took effect it may answer the same.
    """
    actions: list[Action] = []
    pools = {role: _Pool(spec_hashes[role], asked) for role in wanted}
    for record in records:
        pools[record.role].add(record)
    settled = all(pool.settled(wanted[role]) for role, pool in pools.items()) and not any((pending or {}).values())
    for role, count in wanted.items():
        pool, spare, coming = pools[role], (surge or {}).get(role, 0), (pending or {}).get(role, 0)
        if spare and pool.outgoing:
            leaving, missing = pool.with_surge(count, spare, now_s)
        else:
            leaving, settled = pool.without_surge(count, settled)
            missing = count - len(pool.alive)
        leaving += pool.no_more_use
        actions += [Drain(record.worker) for record in leaving]
        for place in range(missing - coming):
            restarts = _restarts(pool.dead[place]) if place < len(pool.dead) else 0
            actions.append(Create(role, restarts, _backoff_s(restarts)))
    return actions


class _Pool:
    """One pool's workers, by what is to become of them."""

    def __init__(self, spec_hash: str, asked: Collection[WorkerId]) -> None:
        self.alive: list[WorkerRecord] = []
        self.asleep: list[WorkerRecord] = []
        self.dead: list[WorkerRecord] = []
        self._draining = 0
        self._spec_hash = spec_hash
        self._asked = asked

    def add(self, record: WorkerRecord) -> None:
        if record.state in (WorkerState.STARTING, WorkerState.READY):
            self.alive.append(record)
        elif record.state is WorkerState.SLEEPING:
            self.asleep.append(record)
        elif record.state is WorkerState.GONE and not record.was_to_go:
            self.dead.append(record)
        else:
            self._draining += 1

    def settled(self, count: int) -> bool:
        """Whether all who are wanted are there and ready, and nobody else is."""
        ready = all(record.state is WorkerState.READY for record in self.alive)
        return ready and not self.dead and not self._draining and len(self.alive) == count

    def _is_outgoing(self, record: WorkerRecord) -> bool:
        return record.spec_hash != self._spec_hash or record.worker in self._asked

    @property
    def outgoing(self) -> list[WorkerRecord]:
        return [record for record in self.alive if self._is_outgoing(record)]

    @property
    def no_more_use(self) -> list[WorkerRecord]:
        """Sleeping workers that nobody will wake."""
        return [record for record in self.asleep if self._is_outgoing(record)]

    def _beyond(self, count: int) -> list[WorkerRecord]:
        by_use = sorted(self.alive, key=lambda record: usefulness(record, self._is_outgoing(record)))
        return by_use[: max(0, len(self.alive) - count)]

    def without_surge(self, count: int, settled: bool) -> tuple[list[WorkerRecord], bool]:
        """Who leaves now, and whether another pool may still take this as a quiet moment."""
        leaving = self._beyond(count)
        # One that has not even started serves nobody, and who was asked to go is not asked to wait.
        if not leaving:
            leaving = [r for r in self.outgoing if r.state is WorkerState.STARTING or r.worker in self._asked]
        if not leaving and settled and self.outgoing:
            leaving, settled = self.outgoing[:1], False
        return leaving, settled

    def with_surge(self, count: int, spare: int, now_s: float) -> tuple[list[WorkerRecord], int]:
        """Who leaves now, and how many are to be started."""
        leaving = [record for record in self.outgoing if record.state is WorkerState.STARTING]
        going = [record for record in self.outgoing if record.state is WorkerState.READY]
        staying = [record for record in self.alive if not self._is_outgoing(record)]
        served = [r for r in staying if r.state is WorkerState.READY or _waits_for_room(r, now_s)]
        enough = max(0, len(going) + len(served) - count)
        missing = count + min(spare, len(going)) - len(going) - len(staying)
        return leaving + going[:enough], missing


def usefulness(record: WorkerRecord, is_outgoing: bool) -> tuple[bool, bool, float, WorkerId]:
    """Less for outgoing workers than for any others; then for those that serve nobody yet, the newest the least; then for the oldest."""
    serves = record.state is not WorkerState.STARTING
    return not is_outgoing, serves, record.created_at_s if serves else -record.created_at_s, record.worker


def _waits_for_room(record: WorkerRecord, now_s: float) -> bool:
    never_heard = record.heard_at_s <= record.created_at_s
    return record.state is WorkerState.STARTING and never_heard and now_s - record.created_at_s > NO_ROOM_S


def _restarts(dead: WorkerRecord) -> int:
    """The count of a dead worker's replacement. One that lived long did not die of its start: the count begins anew."""
    return 1 if dead.heard_at_s - dead.created_at_s > _LONG_LIFE_S else dead.restarts + 1


def _backoff_s(restarts: int) -> float:
    doublings = min(restarts - 2, 16)  # by far the longest already; a float overflows after a day of deaths
    return 0.0 if restarts <= 1 else min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0**doublings)
