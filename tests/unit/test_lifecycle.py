"""A worker's life: every state times every event."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.lifecycle import (
    Beat,
    Died,
    DrainAsked,
    EngineLoaded,
    Event,
    Instruction,
    Kill,
    Limits,
    PhaseEntered,
    TellDraining,
    TimePassed,
    WorkerRecord,
    transition,
)
from core.ids import Epoch, WorkerId
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState

W = WorkerId("w")
LIMITS = Limits(start_timeout_s=100.0, silence_s=10.0, drain_s=40.0)
CARD = WorkerCard(W, Epoch(1), Role.DECODE, WorkerState.READY, "tcp://h:1", "k", EngineFacts(16, 64, 1024, 8, 512))
LOAD = WorkerLoad(running=3)
NEW = WorkerRecord(W, Role.DECODE, Epoch(1), "spec", created_at_s=0.0)
STARTING, READY, DRAINING, GONE = WorkerState.STARTING, WorkerState.READY, WorkerState.DRAINING, WorkerState.GONE
RECORDS = {
    STARTING: NEW,
    READY: replace(NEW, state=READY, phase="ready", card=CARD, heard_at_s=50.0),
    DRAINING: replace(NEW, state=DRAINING, phase="draining", card=CARD, heard_at_s=50.0, draining_since_s=48.0),
    GONE: replace(NEW, state=GONE, phase="drained", card=CARD, heard_at_s=50.0, draining_since_s=48.0),
}
NOW_S = 55.0
"""Nobody is late yet."""

PHASE, LOADED = PhaseEntered("loading weights"), EngineLoaded(CARD)
BUSY, IDLE, UNTOLD = Beat(LOAD, idle=False, draining=True), Beat(LOAD, idle=True, draining=True), Beat(LOAD, idle=True)
DIED = Died("out of memory")
KILL: list[Instruction] = [Kill(W)]
TELL: list[Instruction] = [TellDraining(W)]

TABLE: list[tuple[WorkerState, Event, WorkerState, str, list[Instruction]]] = [
    (STARTING, PHASE, STARTING, "loading weights", []),
    (STARTING, LOADED, READY, "ready", []),
    (STARTING, BUSY, STARTING, "starting", []),
    (STARTING, IDLE, STARTING, "starting", []),
    (STARTING, UNTOLD, STARTING, "starting", []),
    (STARTING, DrainAsked(), GONE, "stopped before it was ready", KILL),
    (STARTING, DIED, GONE, "out of memory", KILL),
    (STARTING, TimePassed(), STARTING, "starting", []),
    (READY, PHASE, READY, "ready", []),
    (READY, LOADED, READY, "ready", []),
    (READY, BUSY, READY, "ready", []),
    (READY, IDLE, READY, "ready", []),
    (READY, UNTOLD, READY, "ready", []),
    (READY, DrainAsked(), DRAINING, "draining", TELL),
    (READY, DIED, GONE, "out of memory", KILL),
    (READY, TimePassed(), READY, "ready", []),
    (DRAINING, PHASE, DRAINING, "draining", []),
    (DRAINING, LOADED, DRAINING, "draining", []),
    (DRAINING, BUSY, DRAINING, "draining", []),
    (DRAINING, IDLE, GONE, "drained", KILL),
    (DRAINING, UNTOLD, DRAINING, "draining", TELL),
    (DRAINING, DrainAsked(), DRAINING, "draining", []),
    (DRAINING, DIED, GONE, "died while draining: out of memory", KILL),
    (DRAINING, TimePassed(), DRAINING, "draining", []),
    *((GONE, event, GONE, "drained", []) for event in (PHASE, LOADED, BUSY, IDLE, UNTOLD, DrainAsked(), DIED, TimePassed())),
]


@pytest.mark.parametrize(
    ("state", "event", "then", "phase", "said"), TABLE, ids=lambda value: getattr(value, "value", type(value).__name__)
)
def test_arrows(state: WorkerState, event: Event, then: WorkerState, phase: str, said: list[Instruction]) -> None:
    """What an event makes of a worker, and what is to be done about it."""
    record, instructions = transition(RECORDS[state], event, NOW_S, LIMITS)
    assert (record.state, record.phase, instructions) == (then, phase, said)


def test_the_table_is_whole() -> None:
    """Every state, every event."""
    kinds = {PhaseEntered, EngineLoaded, Beat, DrainAsked, Died, TimePassed}
    assert {(state, type(event)) for state, event, *_ in TABLE} == set(itertools.product(WorkerState, kinds))


LATE: list[tuple[WorkerState, float, str | None]] = [
    (STARTING, 100.0, None),
    (STARTING, 100.1, "not ready after 100 s; it was at: starting"),
    (READY, 60.0, None),
    (READY, 60.1, "silent for 10 s"),
    (DRAINING, 60.0, None),
    (DRAINING, 60.1, "silent for 10 s"),
]

OVERDUE = "ended though not drained after 40 s; it still had 3 legs, 0 kept blocks"


@pytest.mark.parametrize(("state", "now_s", "reason"), LATE)
def test_limits(state: WorkerState, now_s: float, reason: str | None) -> None:
    """Starting may take as long as it may, silence too, and no longer; created at 0 s, last heard at 50 s."""
    record, instructions = transition(RECORDS[state], TimePassed(), now_s, LIMITS)
    assert (record.state is GONE, instructions) == ((True, KILL) if reason else (False, []))
    assert reason is None or record.phase == reason


@pytest.mark.parametrize(("ago_s", "now_s", "phase"), [(0.0, 140.0, "draining"), (0.0, 140.1, OVERDUE), (30.0, 110.1, OVERDUE)])
def test_a_drain_may_take_so_long(ago_s: float, now_s: float, phase: str) -> None:
    """Asked at 100 s, or found then to be under way; the reason says what was still there."""
    record, _ = transition(RECORDS[READY], DrainAsked(ago_s), 100.0, LIMITS)
    record, _ = transition(record, BUSY, now_s, LIMITS)
    record, instructions = transition(record, TimePassed(), now_s, LIMITS)
    assert (record.phase, instructions) == (phase, KILL if phase == OVERDUE else [])
    assert record.was_to_go


@pytest.mark.parametrize("event", [PHASE, LOADED, BUSY], ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("state", [STARTING, READY, DRAINING])
def test_whatever_a_worker_says_shows_that_it_lives(state: WorkerState, event: Event) -> None:
    """Its silence is counted from then."""
    record, _ = transition(RECORDS[state], event, 59.0, LIMITS)
    assert record.heard_at_s == 59.0


@pytest.mark.parametrize("event", [DrainAsked(), TimePassed()], ids=lambda event: type(event).__name__)
def test_what_others_want_does_not_show_that_it_lives(event: Event) -> None:
    """A drain that nobody answers must not make a silent worker look alive."""
    record, _ = transition(RECORDS[READY], event, 59.0, LIMITS)
    assert record.heard_at_s == 50.0


def test_loading_is_timed_and_the_card_kept() -> None:
    """For people, and for the forecast of the next start."""
    record, _ = transition(replace(NEW, created_at_s=10.0), LOADED, 52.5, LIMITS)
    assert (record.ready_after_s, record.card) == (42.5, CARD)
    later, _ = transition(record, BUSY, 53.0, LIMITS)
    assert (later.load, later.card, later.ready_after_s) == (LOAD, CARD, 42.5)


@given(st.lists(st.sampled_from([PHASE, LOADED, BUSY, IDLE, UNTOLD, DrainAsked(), DIED, TimePassed()]), max_size=30))
def test_a_worker_is_killed_once(events: list[Event]) -> None:
    """Whatever the order: one Kill, exactly when it is gone; the way goes forwards only; told to drain until it says that it does."""
    order = [STARTING, READY, DRAINING, GONE]
    record, said, now_s = NEW, list[Instruction](), 0.0
    for event in events:
        now_s += 7.0
        before = record
        record, instructions = transition(before, event, now_s, LIMITS)
        said += instructions
        assert order.index(record.state) >= order.index(before.state)
        assert (record.worker, record.epoch, record.role) == (W, 1, Role.DECODE)
    assert said.count(Kill(W)) == int(record.state is GONE)
    drains = [isinstance(event, Beat) and event.draining for event in events]
    assert TellDraining(W) not in said or DrainAsked() in events
    assert said.count(TellDraining(W)) <= 1 + drains.count(False)
