"""What a worker's report means for what the controller knows of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cluster.heard import heard
from cluster.lifecycle import Beat, Died, DrainAsked, EngineLoaded, Event, PhaseEntered, WorkerRecord
from cluster.spec import WorkerReport
from core.ids import Epoch, WorkerId
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState

STARTING, READY, DRAINING, SLEEPING, GONE = WorkerState
CARD = WorkerCard(WorkerId("w"), Epoch(1), Role.DECODE, READY, "tcp://h:1", "k", EngineFacts(16, 64, 1024, 8, 512))
LOADED = EngineLoaded(CARD)
REPORT = WorkerReport("ready", card=CARD)
WAKING: dict[str, Any] = {"waking_since_s": 1.0}


def beat(**said: Any) -> Beat:
    return Beat(WorkerLoad(), idle=True, role=Role.DECODE, **said)


AWAKE, DRAINS, SLEEPS = beat(), beat(draining=True), beat(draining=True, asleep=True)
TABLE: dict[str, tuple[WorkerState, dict[str, Any], dict[str, Any], list[Event]]] = {
    "failed": (READY, {}, {"failed": "x", "draining_s": 1.0}, [Died("x")]),
    "loads": (STARTING, {}, {"card": None, "phase": "loading"}, [PhaseEntered("loading")]),
    "loaded": (STARTING, {}, {}, [LOADED, AWAKE]),
    "serves": (READY, {}, {}, [AWAKE]),
    "its loop is stuck": (READY, {}, {"stuck_s": 10.0}, []),
    "drains by itself": (READY, {}, {"draining_s": 2.0}, [DrainAsked(2.0), DRAINS]),
    "found draining": (STARTING, {}, {"draining_s": 2.0}, [LOADED, DrainAsked(2.0), DRAINS]),
    "found asleep: it is not ready": (STARTING, {}, {"draining_s": 2.0, "asleep": True}, [SLEEPS]),
    "drains to sleep": (DRAINING, {"to_sleep": True}, {"draining_s": 2.0}, [DrainAsked(2.0), DRAINS]),
    "was told to sleep": (SLEEPING, {}, {"draining_s": 2.0}, [DRAINS]),
    "sleeps": (SLEEPING, {}, {"draining_s": 2.0, "asleep": True}, [SLEEPS]),
    "wakes: it is not ready": (STARTING, WAKING, {"draining_s": 2.0, "asleep": True}, [SLEEPS]),
    "has not slept, and still drains": (STARTING, WAKING, {"draining_s": 2.0}, [DRAINS]),
    "has woken": (STARTING, WAKING, {}, [LOADED, AWAKE]),
}


@pytest.mark.parametrize(("state", "known", "said", "events"), TABLE.values(), ids=TABLE.keys())
def test_reports(state: WorkerState, known: dict[str, Any], said: dict[str, Any], events: list[Event]) -> None:
    """What the controller takes a worker for, what the worker says, and what it makes of that."""
    record = WorkerRecord(WorkerId("w"), Role.DECODE, Epoch(1), "spec", created_at_s=0.0, state=state, **known)
    assert heard(record, msgspec.structs.replace(REPORT, **said), silence_s=10.0) == events
