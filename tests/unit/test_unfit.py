"""Why a worker cannot be given another role, or another rest."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.lifecycle import WorkerRecord
from cluster.unfit import unfit
from core.ids import Epoch, WorkerId
from core.worker import Role, WorkerState

P, D = Role.PREFILL, Role.DECODE
READY, SLEEPING = WorkerState.READY, WorkerState.SLEEPING
KEYS = ["num_gpus", "engine_args"]
UNLIKE = "workers of the two pools are made differently; their `num_gpus`, `engine_args` would have to be equal"
STALE = "it was made from an older configuration, and is to be replaced"

TABLE: dict[str, tuple[dict[str, Any] | None, WorkerState, Role | None, list[str], str | None]] = {
    "nobody": (None, READY, D, [], "there is no such worker"),
    "the other role": ({}, READY, D, [], None),
    "its own role": ({}, READY, P, [], None),
    "unlike pools": ({}, READY, D, KEYS, UNLIKE),
    "unlike pools, its own role": ({}, READY, P, KEYS, None),
    "unlike pools, no role in question": ({}, READY, None, KEYS, None),
    "drains": ({"state": WorkerState.DRAINING}, READY, D, [], "it is draining, not ready"),
    "awake": ({}, SLEEPING, D, [], "it is ready, not sleeping"),
    "asleep": ({"state": SLEEPING}, SLEEPING, D, [], None),
    "an older configuration": ({"spec_hash": "old"}, READY, D, [], STALE),
}


@pytest.mark.parametrize(("given", "state", "role", "keys", "reason"), TABLE.values(), ids=TABLE.keys())
def test_reasons(given: dict[str, Any] | None, state: WorkerState, role: Role | None, keys: list[str], reason: str | None) -> None:
    """A ready prefill worker of today's configuration, but for what is given; what it is to be; and why it cannot."""
    known = {"worker": WorkerId("w"), "role": P, "epoch": Epoch(1), "spec_hash": "p", "created_at_s": 0.0, "state": READY}
    record = None if given is None else WorkerRecord(**{**known, **given})
    assert unfit(record, state, role, {P: "p", D: "d"}, keys) == reason
