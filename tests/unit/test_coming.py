"""Who is coming, as the controller tells it and as routers take it."""

from __future__ import annotations

import pytest

from cluster.coming import Coming, coming
from cluster.lifecycle import WorkerRecord
from core.ids import Epoch, WorkerId
from core.worker import Role, WorkerState
from router.awaited import Awaited

P, D = Role.PREFILL, Role.DECODE
NOW_S = 1000.0


def record(role: Role, state: WorkerState, age_s: float = 10.0) -> WorkerRecord:
    return WorkerRecord(WorkerId(f"{role}-{state}-{age_s}"), role, Epoch(1), "h", NOW_S - age_s, state)


STARTING, READY = WorkerState.STARTING, WorkerState.READY
CASES: dict[str, tuple[list[WorkerRecord], dict[Role, int], dict[Role, float], bool, Coming]] = {
    "all there": ([record(P, READY), record(D, READY)], {P: 1, D: 1}, {P: 30.0, D: 30.0}, False, Coming()),
    "all start, nobody knows for how long": ([record(P, STARTING), record(D, STARTING)], {P: 1, D: 1}, {}, False, Coming(2)),
    "the one that began first": ([record(P, STARTING, 10.0), record(P, STARTING, 25.0)], {P: 2}, {P: 30.0}, False, Coming(2, 5.0)),
    "the pool that starts faster": ([record(P, STARTING), record(D, STARTING)], {P: 1, D: 1}, {P: 60.0, D: 30.0}, False, Coming(2, 20.0)),
    "overdue": ([record(P, STARTING, 90.0)], {P: 1}, {P: 30.0}, False, Coming(1, 0.0)),
    "died, to be replaced": ([record(D, WorkerState.GONE)], {D: 1}, {D: 30.0}, False, Coming(1, 30.0)),
    "one more is wanted": ([record(D, READY)], {D: 2}, {D: 30.0}, False, Coming(1, 30.0)),
    "too many, as some drain": ([record(D, READY), record(D, WorkerState.DRAINING)], {D: 1}, {D: 30.0}, False, Coming()),
    "scaled to zero": ([], {P: 0, D: 0}, {D: 30.0}, True, Coming(0, 30.0, on_demand=True)),
    "scaled to zero, by a new controller": ([record(D, WorkerState.SLEEPING)], {P: 0, D: 0}, {}, True, Coming(0, None, on_demand=True)),
    "zero, and nobody scales": ([], {P: 0, D: 0}, {D: 30.0}, False, Coming()),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_told(case: str) -> None:
    """How many are wanted and not ready, and when the first will be, going by how long starts took."""
    records, wanted, start_s, on_demand, expected = CASES[case]
    told = coming(records, wanted, start_s, on_demand, NOW_S)
    assert told == expected
    assert told.anybody is bool(expected.workers or on_demand)


def test_what_routers_know_of_it() -> None:
    """Time goes by after it was told; nothing was told is nobody."""
    awaited = Awaited()
    assert (awaited.anybody, awaited.first_in_s(5.0)) == (False, None)
    awaited.told(Coming(2, 10.0), 5.0)
    assert (awaited.anybody, awaited.first_in_s(8.0), awaited.first_in_s(20.0)) == (True, 7.0, 0.0)
    awaited.told(Coming(on_demand=True), 20.0)
    assert (awaited.anybody, awaited.first_in_s(21.0)) == (True, None)
    awaited.told(Coming(0, 10.0), 22.0)
    assert (awaited.anybody, awaited.first_in_s(22.0)) == (False, None)
