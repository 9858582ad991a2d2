"""How long engine steps take, as the scheduler's side of the connector sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from core.step_model import StepWork
from kv_transfer.step_clock import StepClock, work_of

A, B = StepWork(prefill_tokens=1), StepWork(batch=1, context_tokens=9)


def test_a_busy_engines_step_begins_where_the_last_one_ended() -> None:
    """What is done between two steps makes requests wait as well."""
    clock = StepClock(1)
    clock.scheduled(A, {"x"}, 10.0)
    assert clock.updated(12.0).seconds == 2.0  # type: ignore[union-attr]  # it computed something
    clock.scheduled(B, {"x", "y"}, 12.5)
    sample = clock.updated(13.0)
    assert sample is not None
    assert (sample.work, sample.seconds) == (B, 1.0)


@pytest.mark.parametrize("between", [False, True], ids=["idle", "steps that compute nothing"])
def test_a_pause_is_not_counted(between: bool) -> None:
    """Nobody who was in the last step goes on, so there may have been nothing to do; nor while all wait for their KV."""
    clock = StepClock(1)
    clock.scheduled(A, {"x"}, 10.0)
    clock.updated(12.0)
    if between:
        clock.scheduled(StepWork(), set(), 13.0)
        assert clock.updated(14.0) is None
    clock.scheduled(B, {"x"} if between else {"y"}, 60.0)
    sample = clock.updated(61.0)
    assert sample is not None
    assert sample.seconds == 1.0


def test_overlapping_steps_are_not_counted_twice() -> None:
    """With asynchronous scheduling the next step is on its way before one ends; the engine computes one at a time."""
    clock = StepClock(2)
    clock.scheduled(A, {"x"}, 10.0)
    clock.scheduled(B, {"y"}, 10.1)
    first = clock.updated(12.0)
    clock.scheduled(A, {"x"}, 12.1)
    second = clock.updated(13.0)
    assert first is not None
    assert second is not None
    assert (first.seconds, second.seconds, second.work) == (2.0, 1.0, B)


def test_a_step_without_outputs_makes_way() -> None:
    """One that raised is never updated; those behind it keep their own times."""
    clock = StepClock(1)
    clock.scheduled(A, {"x"}, 10.0)
    clock.scheduled(B, {"y"}, 20.0)
    sample = clock.updated(21.0)
    assert sample is not None
    assert (sample.work, sample.seconds) == (B, 1.0)
    assert clock.updated(22.0) is None


def step(new: dict[str, tuple[int, int]], cached: dict[str, tuple[int, int]], drafts: dict[str, list[int]] | None = None) -> Any:
    """A scheduler's output: per request the tokens computed before, and those of this step."""
    scheduled = {leg: tokens for leg, (_, tokens) in {**new, **cached}.items()}
    return SimpleNamespace(
        num_scheduled_tokens=scheduled,
        total_num_scheduled_tokens=sum(scheduled.values()),
        scheduled_new_reqs=[SimpleNamespace(req_id=leg, num_computed_tokens=start) for leg, (start, _) in new.items()],
        scheduled_cached_reqs=SimpleNamespace(req_ids=list(cached), num_computed_tokens=[start for start, _ in cached.values()]),
        scheduled_spec_decode_tokens=drafts or {},
    )


@pytest.mark.parametrize(
    ("output", "work"),
    [
        pytest.param(step({}, {}), StepWork(), id="nothing"),
        pytest.param(step({"a": (0, 10)}, {}), StepWork(10, 100), id="a prompt"),
        pytest.param(step({}, {"a": (10, 5)}), StepWork(5, 125), id="the rest of one"),
        pytest.param(step({"a": (0, 1)}, {}), StepWork(1, 1), id="a prompt of one token"),
        pytest.param(step({}, {"a": (9, 1), "b": (19, 1)}), StepWork(0, 0, 2, 30), id="decodes"),
        pytest.param(step({"a": (31, 1)}, {}), StepWork(0, 0, 1, 32), id="behind KV that was pulled"),
        pytest.param(step({"a": (0, 4)}, {"b": (9, 1)}), StepWork(4, 16, 1, 10), id="both"),
        pytest.param(step({}, {"a": (9, 3)}, {"a": [1, 2]}), StepWork(0, 0, 1, 12), id="a decode with drafts"),
    ],
)
def test_what_a_step_computes(output: Any, work: StepWork) -> None:
    """As the simulated engine counts it (engine/sim_step.py)."""
    assert work_of(output) == work
