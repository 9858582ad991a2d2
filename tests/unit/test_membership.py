"""The controller's table, and the plan that brings it in line with the configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cluster.channel import ChannelKeys
from cluster.lifecycle import Beat, Died, DrainAsked, EngineLoaded, Kill, Limits, PhaseEntered, StopAsked, WorkerRecord
from cluster.membership import Action, Create, Drain, Members, Membership, reconcile
from core.ids import Epoch, WorkerId
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState

P, D = Role.PREFILL, Role.DECODE
STARTING, READY, DRAINING, GONE = WorkerState.STARTING, WorkerState.READY, WorkerState.DRAINING, WorkerState.GONE
HASHES = {P: "new", D: "new"}
LIMITS = Limits(100.0, 10.0)


def record(name: str, state: WorkerState = READY, role: Role = P, spec: str = "new", **changes: Any) -> WorkerRecord:
    """``name`` ends in the second it was created."""
    given = {"phase": "out of memory" if state is GONE else str(state), **changes}
    return WorkerRecord(WorkerId(name), role, Epoch(1), spec, created_at_s=float(name[-1]), state=state, **given)


def plan(records: list[WorkerRecord], prefill: int, decode: int = 0) -> list[Action]:
    return reconcile(records, {P: prefill, D: decode}, HASHES)


def gone(name: str, **changes: Any) -> WorkerRecord:
    return record(name, GONE, **changes)


TABLE: dict[str, tuple[list[WorkerRecord], int, list[Action]]] = {
    "nobody yet": ([], 2, [Create(P), Create(P)]),
    "all there": ([record("p1"), record("p2")], 2, []),
    "starting counts as there": ([record("p1", STARTING), record("p2")], 2, []),
    "none wanted": ([], 0, []),
    "one missing": ([record("p1")], 2, [Create(P)]),
    # too many
    "one too many: the oldest goes": ([record("p3"), record("p1"), record("p2")], 2, [Drain(WorkerId("p1"))]),
    "two too many": ([record("p3"), record("p1"), record("p2")], 1, [Drain(WorkerId("p1")), Drain(WorkerId("p2"))]),
    "none wanted any more": ([record("p1"), record("p2", STARTING)], 0, [Drain(WorkerId("p1")), Drain(WorkerId("p2"))]),
    "draining is not there": ([record("p1", DRAINING), record("p2")], 2, [Create(P)]),
    "draining is not drained twice": ([record("p1", DRAINING), record("p2")], 1, []),
    # an older configuration
    "stale is drained first": ([record("p1", spec="old")], 1, [Drain(WorkerId("p1"))]),
    "stale drains, its replacement is made": ([record("p1", DRAINING, spec="old")], 1, [Create(P)]),
    "stale, its replacement starts": ([record("p1", DRAINING, spec="old"), record("p2", STARTING)], 1, []),
    "stale and starting": ([record("p1", STARTING, spec="old")], 1, [Drain(WorkerId("p1"))]),
    "one stale of two": ([record("p1", spec="old"), record("p2")], 2, [Drain(WorkerId("p1"))]),
    "two stale: one at a time": ([record("p1", spec="old"), record("p2", spec="old")], 2, [Drain(WorkerId("p1"))]),
    "stale waits for its pool": ([record("p1", spec="old"), record("p2", STARTING)], 2, []),
    "stale waits for a drain": ([record("p1", spec="old"), record("p2"), record("p3", DRAINING)], 2, []),
    "stale goes first when there are too many": ([record("p1"), record("p2", spec="old")], 1, [Drain(WorkerId("p2"))]),
    # deaths
    "first death: at once": ([gone("p1")], 1, [Create(P, restarts=1)]),
    "second death": ([gone("p1", restarts=1)], 1, [Create(P, restarts=2, after_s=1.0)]),
    "third death": ([gone("p1", restarts=2)], 1, [Create(P, restarts=3, after_s=2.0)]),
    "sixth death": ([gone("p1", restarts=5)], 1, [Create(P, restarts=6, after_s=16.0)]),
    "hundredth death": ([gone("p1", restarts=99)], 1, [Create(P, restarts=100, after_s=60.0)]),
    "thousands of deaths": ([gone("p1", restarts=5000)], 1, [Create(P, restarts=5001, after_s=60.0)]),
    "a death beside a living one": ([gone("p1", restarts=1), record("p2")], 2, [Create(P, restarts=2, after_s=1.0)]),
    "a death and a new place": ([gone("p1", restarts=1)], 2, [Create(P, restarts=2, after_s=1.0), Create(P)]),
    "two deaths, each its own back-off": (
        [gone("p1", restarts=3), gone("p2")],
        2,
        [Create(P, restarts=4, after_s=4.0), Create(P, restarts=1)],
    ),
    "a death nobody has to replace": ([gone("p1", restarts=3), record("p2")], 1, []),
    "drained is no death": ([gone("p1", restarts=3, phase="drained")], 1, [Create(P)]),
    "stopped is no death": ([gone("p1", restarts=3, phase="stopped")], 1, [Create(P)]),
    "stopped before it was ready is no death": ([gone("p1", restarts=3, phase="stopped before it was ready")], 1, [Create(P)]),
    "died while draining is no death": ([gone("p1", restarts=3, phase="died while draining")], 1, [Create(P)]),
    "a death after a long life starts the count anew": ([gone("p1", restarts=9, heard_at_s=5000.0)], 1, [Create(P, restarts=1)]),
    "silence is a death": ([gone("p1", phase="silent for 10 s")], 1, [Create(P, restarts=1)]),
}


@pytest.mark.parametrize(("records", "count", "actions"), TABLE.values(), ids=TABLE.keys())
def test_reconcile(records: list[WorkerRecord], count: int, actions: list[Action]) -> None:
    """One pool: who is there, how many are wanted, what is done."""
    assert plan(records, count) == actions


def test_stopping_before_ready_is_no_death_by_the_lifecycle_own_words() -> None:
    """The two modules agree on what was done on purpose."""
    for event in (DrainAsked(), StopAsked()):
        members = Members()
        members.enter(record("p1", STARTING, restarts=4))
        assert members.apply(WorkerId("p1"), event, 1.0, LIMITS) == [Kill(WorkerId("p1"))]
        assert plan(list(members), 1) == [Create(P)]


def test_pools_do_not_help_each_other() -> None:
    """A dead decode worker is not replaced by a prefill worker, nor does it slow prefill's replacement."""
    records = [record("d1", GONE, D, restarts=7), record("p1"), record("p2")]
    assert plan(records, 1, 1) == [Drain(WorkerId("p1")), Create(D, restarts=8, after_s=60.0)]


@pytest.mark.parametrize(("records", "count"), [(records, count) for records, count, _ in TABLE.values()], ids=TABLE.keys())
def test_reconcile_settles(records: list[WorkerRecord], count: int) -> None:
    """Carried out again and again, its actions end with as many ready workers of today's configuration as are wanted."""
    after = {r.worker: r for r in records if r.state is not GONE}
    for round_number in range(10):
        actions = plan(list(after.values()), count)
        for number, action in enumerate(actions):
            if isinstance(action, Drain):
                del after[action.worker]
            else:
                name = WorkerId(f"made{round_number}-{number}9")
                after[name] = record(name)
        after = {name: replace(r, state=READY) for name, r in after.items() if r.state is not DRAINING}
    assert [(r.state, r.spec_hash) for r in after.values()] == [(READY, record("p1").spec_hash)] * count


# -- the table -----------------------------------------------------------------------------------------------------------------

CARD = WorkerCard(WorkerId("p1"), Epoch(1), P, READY, "tcp://h:1", "k", EngineFacts(16, 64, 1024, 8, 512))
STARTED = record("p1", STARTING)


def test_versions_grow_with_what_routers_can_see() -> None:
    """And with nothing else: a beat must not wake every router."""
    members = Members()
    steps: list[tuple[object, bool]] = [
        (PhaseEntered("loading"), False),
        (Beat(WorkerLoad(), idle=True), False),
        (EngineLoaded(CARD), True),
        (Beat(WorkerLoad(running=3), idle=False), False),
        (DrainAsked(), True),
        (DrainAsked(), False),
        (Beat(WorkerLoad(), idle=True), True),
        (Died("late"), False),
    ]
    members.enter(STARTED)
    for event, grows in steps:
        before = members.version
        members.apply(WorkerId("p1"), event, 1.0, LIMITS)  # type: ignore[arg-type]
        assert (members.version > before) is grows, event
    before = members.version
    members.remove(WorkerId("p1"))
    assert members.version == before + 1
    members.remove(WorkerId("p1"))
    assert members.version == before + 1


def test_routers_are_told_of_workers_with_their_work() -> None:
    """Ready ones, and draining ones by their state; starting and gone ones not."""
    members = Members()
    members.enter(STARTED)
    told: list[list[WorkerState]] = [[card.state for card in members.cards()]]
    for event in (EngineLoaded(CARD), DrainAsked(), Beat(WorkerLoad(), idle=True)):
        members.apply(WorkerId("p1"), event, 1.0, LIMITS)
        told.append([card.state for card in members.cards()])
    assert told == [[], [READY], [DRAINING], []]


def test_unknown_workers_are_ignored() -> None:
    """A late answer of one that was removed."""
    members = Members()
    assert members.apply(WorkerId("x"), Died("x"), 1.0, LIMITS) == []
    assert (members.version, list(members), members.get(WorkerId("x")), WorkerId("x") in members) == (0, [], None, False)


def test_the_table_may_change_while_it_is_read() -> None:
    """The controller removes what it comes across."""
    members = Members()
    for name in ("p1", "p2", "p3"):
        members.enter(record(name))
    for seen in members:
        members.remove(seen.worker)
    assert list(members) == []


def test_a_membership_survives_the_wire() -> None:
    """It crosses Ray; keys and cards arrive as they were."""
    membership = Membership(3, [CARD], ChannelKeys.make())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(membership), type=Membership) == membership
