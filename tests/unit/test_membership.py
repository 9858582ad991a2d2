"""The controller's table, and the plan that brings it in line with the configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cluster.channel import ChannelKeys
from cluster.lifecycle import Beat, Died, DrainAsked, EngineLoaded, Limits, PhaseEntered, TimePassed, WorkerRecord
from cluster.membership import NO_ROOM_S, Action, Create, Drain, Members, Membership, reconcile
from core.ids import Epoch, WorkerId
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState

P, D = Role.PREFILL, Role.DECODE
STARTING, READY, DRAINING, SLEEPING, GONE = WorkerState
HASHES = {P: "new", D: "new"}
LIMITS = Limits(100.0, 10.0, 40.0)
NOW_S = 10.0
CARD = WorkerCard(WorkerId("p1"), Epoch(1), P, READY, "tcp://h:1", "k", EngineFacts(16, 64, 1024, 8, 512))


def record(name: str, state: WorkerState = READY, role: Role = P, spec: str = "new", **changes: Any) -> WorkerRecord:
    """``name`` ends in the second it was created."""
    given = {"phase": "out of memory" if state is GONE else str(state), **changes}
    return WorkerRecord(WorkerId(name), role, Epoch(1), spec, created_at_s=float(name[-1]), state=state, **given)


def plan(records: list[WorkerRecord], prefill: int, decode: int = 0, **more: Any) -> list[Action]:
    return reconcile(records, {P: prefill, D: decode}, HASHES, NOW_S, **more)


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
    "who does not serve yet goes before the oldest": ([record("p1"), record("p2", STARTING)], 1, [Drain(WorkerId("p2"))]),
    "of those the newest": ([record("p1", STARTING), record("p2"), record("p3", STARTING)], 2, [Drain(WorkerId("p3"))]),
    "none wanted any more": ([record("p1"), record("p2", STARTING)], 0, [Drain(WorkerId("p2")), Drain(WorkerId("p1"))]),
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
    # sleep
    "asleep is not there": ([record("p1", SLEEPING), record("p2")], 2, [Create(P)]),
    "asleep is no worker too many": ([record("p1", SLEEPING), record("p2")], 1, []),
    "asleep is let sleep": ([record("p1", SLEEPING)], 0, []),
    "asleep and stale: nobody will wake it": ([record("p1", SLEEPING, spec="old"), record("p2")], 1, [Drain(WorkerId("p1"))]),
    "stale waits for nobody who sleeps": ([record("p1", spec="old"), record("p2", SLEEPING)], 1, [Drain(WorkerId("p1"))]),
    "died asleep": ([gone("p1", draining_since_s=1.0, to_sleep=True), record("p2")], 1, []),
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
    "one that was to go is no death": ([gone("p1", restarts=3, draining_since_s=1.0)], 1, [Create(P)]),
    "a death after a long life starts the count anew": ([gone("p1", restarts=9, heard_at_s=5000.0)], 1, [Create(P, restarts=1)]),
    "silence is a death": ([gone("p1", phase="silent for 10 s")], 1, [Create(P, restarts=1)]),
}


@pytest.mark.parametrize(("records", "count", "actions"), TABLE.values(), ids=TABLE.keys())
def test_reconcile(records: list[WorkerRecord], count: int, actions: list[Action]) -> None:
    """One pool: who is there, how many are wanted, what is done."""
    assert plan(records, count) == actions


ENDS: dict[str, list[Any]] = {
    "before it was ready": [DrainAsked()],
    "drained": [EngineLoaded(CARD), DrainAsked(), Beat(WorkerLoad(), idle=True, draining=True)],
    "died on the way": [EngineLoaded(CARD), DrainAsked(), Died("x")],
    "took too long": [EngineLoaded(CARD), DrainAsked(ago_s=1000.0), TimePassed()],
}


@pytest.mark.parametrize("events", ENDS.values(), ids=ENDS.keys())
def test_however_one_that_was_to_go_ends_it_was_no_death(events: list[Any]) -> None:
    """The two modules agree on what was done on purpose: nobody waits with its replacement."""
    members = Members()
    members.enter(record("p1", STARTING, restarts=4))
    for event in events:
        members.apply(WorkerId("p1"), event, 1.0, LIMITS)
    assert [r.state for r in members] == [GONE]
    assert plan(list(members), 1) == [Create(P)]


OLD: dict[str, Any] = {"spec": "old"}
DRAIN_1, DRAIN_2 = Drain(WorkerId("p1")), Drain(WorkerId("p2"))
ASKED: dict[str, tuple[list[WorkerRecord], int, dict[str, Any], list[Action]]] = {
    "goes at once": ([record("p1"), record("p2")], 2, {}, [DRAIN_1]),
    "also when others are away": ([record("p1"), record("p2", STARTING)], 2, {}, [DRAIN_1]),
    "also while starting": ([record("p1", STARTING)], 1, {}, [DRAIN_1]),
    "goes first when there are too many": ([record("p2"), record("p1"), record("p3")], 2, {}, [DRAIN_1]),
    "goes without being woken": ([record("p1", SLEEPING), record("p2")], 1, {}, [DRAIN_1]),
    "is not asked twice": ([record("p1", DRAINING), record("p2")], 1, {}, []),
    "its replacement comes once it drains": ([record("p1", DRAINING)], 1, {}, [Create(P)]),
    "its replacement is on its way": ([record("p1", DRAINING)], 1, {"pending": {P: 1}}, []),
    # with surge
    "surge: the replacement first": ([record("p1")], 1, {"surge": {P: 1}}, [Create(P)]),
    "surge: it is on its way": ([record("p1")], 1, {"surge": {P: 1}, "pending": {P: 1}}, []),
    "surge: it starts": ([record("p1"), record("p2", STARTING, heard_at_s=5.0)], 1, {"surge": {P: 1}}, []),
    "surge: it is ready": ([record("p1"), record("p2")], 1, {"surge": {P: 1}}, [DRAIN_1]),
    "surge: it has gone": ([record("p1", DRAINING), record("p2")], 1, {"surge": {P: 1}}, []),
    "surge: not even started": ([record("p1", STARTING)], 1, {"surge": {P: 1}}, [DRAIN_1, Create(P)]),
    "surge: not beyond it": ([record("p1"), record("p2", **OLD), record("p3", **OLD)], 3, {"surge": {P: 2}}, [Create(P), Create(P)]),
    "surge: one for one": (
        [record("p1"), record("p2", **OLD), record("p3"), record("p4", STARTING, heard_at_s=5.0)],
        2,
        {"surge": {P: 2}},
        [DRAIN_1],
    ),
}
"""Somebody asked for ``p1`` to go."""


@pytest.mark.parametrize(("records", "count", "more", "actions"), ASKED.values(), ids=ASKED.keys())
def test_asked_to_drain(records: list[WorkerRecord], count: int, more: dict[str, Any], actions: list[Action]) -> None:
    """One pool, one worker that is to go."""
    assert plan(records, count, asked={"p1"}, **more) == actions


@pytest.mark.parametrize(("age_s", "actions"), [(NO_ROOM_S, []), (NO_ROOM_S + 1, [DRAIN_1])])
def test_a_replacement_without_room_is_made_room_for(age_s: float, actions: list[Action]) -> None:
    """On a full cluster the replacement cannot come first, whatever ``surge`` says."""
    made_s = NOW_S - age_s
    waiting = replace(record("p9", STARTING), created_at_s=made_s, heard_at_s=made_s)
    assert plan([record("p1", spec="old"), waiting], 1, surge={P: 1}) == actions
    heard = replace(waiting, heard_at_s=made_s + 1)
    assert plan([record("p1", spec="old"), heard], 1, surge={P: 1}) == []


@pytest.mark.parametrize("surge", [0, 1, 2, 5])
def test_a_pool_is_replaced_without_getting_smaller(surge: int) -> None:
    """Carried out again and again: all are new in the end; never fewer ready than wanted with surge, one fewer without."""
    there = {name: record(name, spec="old") for name in ("p1", "p2", "p3")}
    fewest, most = 3, 3
    for round_number in range(30):
        for action in plan(list(there.values()), 3, surge={P: surge}):
            if isinstance(action, Drain):
                there[action.worker] = replace(there[action.worker], state=DRAINING)
            else:
                name = f"made{len(there)}-{round_number}"
                there[name] = record(name, STARTING, heard_at_s=9.0)
        ready = sum(r.state is READY for r in there.values())
        fewest, most = min(fewest, ready), max(most, sum(r.state in (READY, STARTING) for r in there.values()))
        there = {name: replace(r, state=READY) for name, r in there.items() if r.state is not DRAINING}
    assert [r.spec_hash for r in there.values()] == ["new"] * 3
    assert (fewest, most) == ((2, 3) if surge == 0 else (3, 3 + min(surge, 3)))


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
        (Beat(WorkerLoad(), idle=True, draining=True), True),
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
    for event in (EngineLoaded(CARD), DrainAsked(), Beat(WorkerLoad(), idle=True, draining=True)):
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
