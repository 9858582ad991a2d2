"""When an engine hangs: every kind of silence."""

from __future__ import annotations

import pytest

from cluster.watchdog import StallWatch, Verdict

WAIT, PROBE, HUNG = Verdict.WAIT, Verdict.PROBE, Verdict.HUNG
LEGS, IDLE, LIVES = True, False, None

TABLE: dict[str, list[tuple[float, bool | None, Verdict | None]]] = {
    "silence": [(1, LEGS, WAIT), (3, LEGS, WAIT), (5, LEGS, PROBE), (7, LEGS, PROBE), (9, LEGS, PROBE), (10, LEGS, HUNG)],
    "a step in time": [(2, LEGS, WAIT), (4, LEGS, WAIT), (6, LEGS, PROBE), (6, LIVES, None), (8, LEGS, WAIT), (10, LEGS, WAIT)],
    "steps as late as can be": [(2, LEGS, WAIT), (4, LEGS, WAIT), (6, LEGS, PROBE), (9, LEGS, PROBE), (9, LIVES, None), (11, LEGS, WAIT)],
    "nothing to do": [(2, IDLE, WAIT), (40, IDLE, WAIT), (400, IDLE, WAIT)],
    "counted from when there is something to do": [(98, IDLE, WAIT), (100, IDLE, WAIT), (102, LEGS, WAIT), (104, LEGS, WAIT)],
    "work that ends is forgotten": [(2, LEGS, WAIT), (4, LEGS, WAIT), (6, LEGS, PROBE), (8, IDLE, WAIT), (10, LEGS, WAIT)],
    "a process that was stopped itself": [(2, LEGS, WAIT), (600, LEGS, WAIT), (601, LEGS, PROBE), (601, LIVES, None), (603, LEGS, WAIT)],
}
"""Seconds, what is the case then, and the verdict; the limit is 10 s."""


@pytest.mark.parametrize("looks", TABLE.values(), ids=TABLE.keys())
def test_verdicts(looks: list[tuple[float, bool | None, Verdict | None]]) -> None:
    """Half the limit without a sign of life: ask for one. All of it: it hangs."""
    watch = StallWatch(10.0, 0.0)
    for now_s, has_legs, verdict in looks:
        if has_legs is None:
            watch.lived()
        else:
            assert watch.look(has_legs, now_s) is verdict, now_s
