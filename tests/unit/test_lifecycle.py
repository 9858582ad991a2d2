"""A worker's life: every state times every event."""

from __future__ import annotations

import itertools
from dataclasses import replace

import msgspec
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
    RoleChanged,
    SleepAsked,
    TellDraining,
    TellRole,
    TellSleep,
    TellWake,
    TimePassed,
    WakeAsked,
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
STARTING, READY, DRAINING, SLEEPING, GONE = WorkerState
TIRED, WAKING = "draining, to sleep", "waking up"
"""Two states have a second kind: one that drains and is to sleep then, and one that starts by waking."""
RECORDS: dict[str, WorkerRecord] = {
    STARTING: NEW,
    WAKING: replace(NEW, phase=WAKING, card=CARD, heard_at_s=50.0, waking_since_s=48.0, ready_after_s=30.0),
    READY: replace(NEW, state=READY, phase="ready", card=CARD, heard_at_s=50.0),
    DRAINING: replace(NEW, state=DRAINING, phase="draining", card=CARD, heard_at_s=50.0, draining_since_s=48.0),
    TIRED: replace(NEW, state=DRAINING, phase=TIRED, card=CARD, heard_at_s=50.0, draining_since_s=48.0, to_sleep=True),
    SLEEPING: replace(NEW, state=SLEEPING, phase="sleeping", card=CARD, heard_at_s=50.0, draining_since_s=48.0, to_sleep=True),
    GONE: replace(NEW, state=GONE, phase="drained", card=CARD, heard_at_s=50.0, draining_since_s=48.0),
}
NOW_S = 55.0
"""Nobody is late yet."""

PHASE, LOADED = PhaseEntered("loading weights"), EngineLoaded(CARD)
BUSY, IDLE, UNTOLD = Beat(LOAD, idle=False, draining=True), Beat(LOAD, idle=True, draining=True), Beat(LOAD, idle=True)
ASLEEP = Beat(LOAD, idle=True, draining=True, asleep=True)
BEATS = (BUSY, IDLE, UNTOLD, ASLEEP)
DRAIN, SLEEP, WAKE, CHANGED = DrainAsked(), SleepAsked(), WakeAsked(), RoleChanged(Role.PREFILL)
DIED, LATER = Died("out of memory"), TimePassed()
EVENTS: tuple[Event, ...] = (PHASE, LOADED, *BEATS, DRAIN, SLEEP, WAKE, CHANGED, DIED, LATER)
KILL: list[Instruction] = [Kill(W)]
TELL: list[Instruction] = [TellDraining(W)]
TO_SLEEP: list[Instruction] = [TellSleep(W)]
TO_WAKE: list[Instruction] = [TellWake(W)]

ARROWS: list[tuple[str, Event, WorkerState, str, list[Instruction]]] = [
    (STARTING, PHASE, STARTING, "loading weights", []),
    (STARTING, LOADED, READY, "ready", []),
    (STARTING, ASLEEP, SLEEPING, "sleeping", []),
    (STARTING, DRAIN, GONE, "stopped before it was ready", KILL),
    (STARTING, DIED, GONE, "out of memory", KILL),
    (WAKING, PHASE, STARTING, "loading weights", []),
    (WAKING, LOADED, READY, "ready", []),
    (WAKING, BUSY, STARTING, WAKING, TO_WAKE),
    (WAKING, IDLE, STARTING, WAKING, TO_WAKE),
    (WAKING, ASLEEP, STARTING, WAKING, TO_WAKE),
    (WAKING, DRAIN, GONE, "stopped before it was ready", KILL),
    (WAKING, DIED, GONE, "out of memory", KILL),
    (READY, DRAIN, DRAINING, "draining", TELL),
    (READY, SLEEP, DRAINING, TIRED, TELL),
    (READY, DIED, GONE, "out of memory", KILL),
    (DRAINING, IDLE, GONE, "drained", KILL),
    (DRAINING, ASLEEP, GONE, "drained", KILL),
    (DRAINING, UNTOLD, DRAINING, "draining", TELL),
    (DRAINING, DIED, GONE, "died while draining: out of memory", KILL),
    (TIRED, IDLE, SLEEPING, "sleeping", TO_SLEEP),
    (TIRED, ASLEEP, SLEEPING, "sleeping", TO_SLEEP),
    (TIRED, UNTOLD, DRAINING, TIRED, TELL),
    (TIRED, DIED, GONE, "died while draining: out of memory", KILL),
    (SLEEPING, BUSY, SLEEPING, "sleeping", TO_SLEEP),
    (SLEEPING, IDLE, SLEEPING, "sleeping", TO_SLEEP),
    (SLEEPING, UNTOLD, SLEEPING, "sleeping", TO_SLEEP),
    (SLEEPING, DRAIN, GONE, "drained", KILL),
    (SLEEPING, WAKE, STARTING, WAKING, TO_WAKE),
    (SLEEPING, DIED, GONE, "died asleep: out of memory", KILL),
]
"""All that lead anywhere, or to something that is to be done."""


def arrow(state: str, event: Event) -> tuple[WorkerState, str, list[Instruction]]:
    record = RECORDS[state]
    found = [(then, phase, said) for origin, by, then, phase, said in ARROWS if origin == state and by is event]
    return found[0] if found else (record.state, record.phase, [])


@pytest.mark.parametrize(
    ("state", "event"), [*itertools.product(RECORDS, EVENTS)], ids=lambda value: str(value) if isinstance(value, str) else repr(value)[:60]
)
def test_arrows(state: str, event: Event) -> None:
    """What an event makes of a worker, and what is to be done about it: every state, every event; what is not in the table does neither."""
    record, instructions = transition(RECORDS[state], event, NOW_S, LIMITS)
    assert (record.state, record.phase, instructions) == arrow(state, event)


LATE: list[tuple[str, float, str | None]] = [
    (STARTING, 100.0, None),
    (STARTING, 100.1, "not ready after 100 s; it was at: starting"),
    (READY, 60.0, None),
    (READY, 60.1, "silent for 10 s"),
    (DRAINING, 60.0, None),
    (DRAINING, 60.1, "silent for 10 s"),
    (SLEEPING, 60.0, None),
    (SLEEPING, 60.1, "silent for 10 s"),
    (WAKING, 148.0, None),
    (WAKING, 148.1, "not ready after 100 s; it was at: waking up"),
]

OVERDUE = "ended though not drained after 40 s; it still had 3 legs, 0 kept blocks"


@pytest.mark.parametrize(("state", "now_s", "reason"), LATE)
def test_limits(state: str, now_s: float, reason: str | None) -> None:
    """Starting may take as long as it may, silence too, and no longer; created at 0 s, last heard at 50 s, told to wake at 48 s."""
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
@pytest.mark.parametrize("state", [STARTING, WAKING, READY, DRAINING, SLEEPING])
def test_whatever_a_worker_says_shows_that_it_lives(state: str, event: Event) -> None:
    """Its silence is counted from then."""
    record, _ = transition(RECORDS[state], event, 59.0, LIMITS)
    assert record.heard_at_s == 59.0


@pytest.mark.parametrize("event", [DRAIN, SLEEP, WAKE, CHANGED, LATER], ids=lambda event: type(event).__name__)
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


def test_how_long_it_slept_is_no_start() -> None:
    """What the next start is forecast by is the one start there was."""
    record, _ = transition(RECORDS[WAKING], LOADED, NOW_S, LIMITS)
    assert (record.ready_after_s, record.waking_since_s) == (30.0, None)


def test_a_sleep_may_last() -> None:
    """A drain has a limit, and the sleep that comes of it has none; nobody who has slept drains then."""
    record, _ = transition(RECORDS[TIRED], IDLE, NOW_S, LIMITS)
    record, _ = transition(record, ASLEEP, 9000.0, LIMITS)
    record, said = transition(record, LATER, 9001.0, LIMITS)
    assert (record.state, said) == (SLEEPING, [])
    record, _ = transition(record, WAKE, 9001.0, LIMITS)
    assert not record.was_to_go
    record, _ = transition(record, LOADED, 9002.0, LIMITS)
    record, said = transition(record, UNTOLD, 9003.0, LIMITS)
    assert (record.state, said) == (READY, [])


@pytest.mark.parametrize("state", [state for state in RECORDS if state != GONE])
def test_a_role_changes_nothing_but_the_pool(state: str) -> None:
    """Record and card have the new one; a worker that says another is told, until it says the same."""
    before = RECORDS[state]
    record, said = transition(before, CHANGED, NOW_S, LIMITS)
    card = before.card and msgspec.structs.replace(before.card, role=Role.PREFILL)
    assert (record, said) == (replace(before, role=Role.PREFILL, card=card), [])
    said_by: dict[Role, list[Instruction]] = {role: transition(record, replace(BUSY, role=role), NOW_S, LIMITS)[1] for role in Role}
    assert said_by[Role.DECODE] == [*said_by[Role.PREFILL], TellRole(W, Role.PREFILL)]


def test_the_role_is_the_one_that_was_agreed_on_last() -> None:
    """A worker that starts with the role it was made with joins the pool its record says."""
    record, _ = transition(replace(NEW, role=Role.PREFILL), LOADED, NOW_S, LIMITS)
    assert record.card == msgspec.structs.replace(CARD, role=Role.PREFILL)


@given(st.lists(st.sampled_from(EVENTS), max_size=30))
def test_a_worker_is_killed_once(events: list[Event]) -> None:
    """Whatever the order: one Kill, exactly when it is gone; nobody comes back but by waking; told to drain until it says that it does."""
    order = [STARTING, READY, DRAINING, SLEEPING, GONE]
    record, said, now_s = NEW, list[Instruction](), 0.0
    for event in events:
        now_s += 7.0
        before = record
        record, instructions = transition(before, event, now_s, LIMITS)
        said += instructions
        assert order.index(record.state) >= order.index(before.state) or event == WAKE
        assert (record.worker, record.epoch) == (W, 1)
        assert record.card is None or record.card.role is record.role
        assert record.was_to_go or record.state not in (DRAINING, SLEEPING)
    assert said.count(Kill(W)) == int(record.state is GONE)
    told = [isinstance(event, Beat) and event.draining for event in events]
    asked = sum(event in (DRAIN, SLEEP) for event in events)
    assert said.count(TellDraining(W)) <= (asked + told.count(False) if asked else 0)
