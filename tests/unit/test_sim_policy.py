"""Who is in a step, who must wait and who must go: the rules one by one. That vLLM's are the same, a contract test shows."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import ConfigError
from core.ids import LegId
from engine.sim_blocks import BlockHash
from engine.sim_config import SimulatedEngineConfig
from engine.sim_content import LengthPrompt
from engine.sim_request import Mark, RemotePrompt, SimRequest
from engine.sim_scheduler import SimScheduler
from engine.sim_step import Step, StepResult

A, B, C, D = LegId("a"), LegId("b"), LegId("c"), LegId("d")
BLOCK = 4


def make(**changes: Any) -> SimScheduler:
    settings = {"block_size_tokens": BLOCK, "num_blocks": 16, "max_model_len": 64, "max_num_seqs": 4, "max_num_batched_tokens": 32}
    return SimScheduler(SimulatedEngineConfig(**{**settings, **changes}))


def ask(leg: LegId, tokens: int, output: int = 30, first: int | None = None, **changes: Any) -> SimRequest:
    """A prompt that begins with blocks ``first``, or with none that anybody could find."""
    names = () if first is None else tuple(BlockHash(first + index) for index in range(tokens // BLOCK))
    return SimRequest(leg, LengthPrompt(tokens, names), output, **changes)


def step(scheduler: SimScheduler, now: float = 0.0) -> tuple[dict[str, int], Step, StepResult]:
    planned = scheduler.schedule(now)
    return {chunk.sequence.request.leg: chunk.tokens for chunk in planned.chunks}, planned, scheduler.finish(planned, now)


@pytest.mark.parametrize(
    ("policy", "order"),
    [("fcfs", ["a", "b", "c", "d"]), ("priority", ["b", "d", "c", "a"])],
)
def test_who_goes_first(policy: str, order: list[str]) -> None:
    """First come, first served; or the smaller priority, of equal ones whoever came first by what the request says itself."""
    scheduler = make(policy=policy, max_num_seqs=1)
    for leg, priority, arrival_s in ((A, 2, 0.0), (B, 0, 1.0), (C, 1, 9.0), (D, 1, 3.0)):
        scheduler.add(ask(leg, 4, 1, priority=priority, arrival_s=arrival_s), 5.0)
    assert [next(iter(step(scheduler)[0])) for _ in order] == order


@pytest.mark.parametrize(
    ("policy", "preempted"),
    [
        pytest.param("fcfs", "c", id="fcfs: the last admitted"),
        pytest.param("priority", "b", id="priority: the worst, also behind its turn"),
    ],
)
def test_who_is_preempted(policy: str, preempted: str) -> None:
    """It loses its blocks and waits; nobody is admitted in that step, and others keep their turn."""
    scheduler = make(policy=policy, num_blocks=7, max_model_len=28)
    for leg, priority in ((B, 2), (A, 0), (C, 1)):
        scheduler.add(ask(leg, 7, 17, priority=priority), 0.0)
        step(scheduler)
    scheduler.add(ask(D, 1, 1, priority=9), 0.0)
    while set(sizes := step(scheduler)[0]) == {"a", "b", "c"}:
        pass
    assert set(sizes) == {"a", "b", "c"} - {preempted}
    assert set(sizes.values()) == {1}
    assert (scheduler.stats.running, scheduler.stats.waiting) == (2, 2)


def test_a_preempted_request_computes_all_its_tokens_again() -> None:
    """Those it made as well; what it had in the cache may still be found; it says so when it ends."""
    scheduler = make(num_blocks=6, max_model_len=24, max_num_seqs=2)
    scheduler.add(ask(A, 7, 8), 0.0)
    scheduler.add(ask(B, 7, 8, first=50), 0.0)
    for now in range(40):
        sizes, _, result = step(scheduler, now)
        for emitted in result.emitted:
            if emitted.leg == B and emitted.timeline is not None:
                assert emitted.timeline.preemptions == 1
                assert [mark for mark, _ in emitted.marks] == [Mark.PREEMPTED, Mark.SCHEDULED]
                return
        if now and sizes.get(B, 1) > 1:
            assert sizes == {B: 13 - BLOCK}
    raise AssertionError


@pytest.mark.parametrize(
    ("changes", "prompts", "chunks"),
    [
        pytest.param({}, [20, 20], [20, 12], id="what the step has left"),
        pytest.param({"long_prefill_threshold_tokens": 6}, [20, 20], [6, 6], id="threshold"),
        pytest.param({"long_prefill_threshold_tokens": 6}, [20, 3], [6, 3], id="below the threshold"),
        pytest.param({"long_prefill_threshold_tokens": 6}, [20], [20], id="nobody waits for it"),
        pytest.param({"long_prefill_threshold_tokens": 6, "long_prefill_adaptive": True}, [20, 20], [16, 16], id="a fair share"),
        pytest.param({"long_prefill_threshold_tokens": 6, "max_num_seqs": 1}, [20, 20], [6], id="waiting counts too"),
    ],
)
def test_chunks(changes: dict[str, Any], prompts: list[int], chunks: list[int]) -> None:
    """How much of each prompt is in the first step."""
    scheduler = make(**changes)
    for leg, tokens in zip((A, B), prompts, strict=False):
        scheduler.add(ask(leg, tokens), 0.0)
    assert list(step(scheduler)[0].values()) == chunks


@pytest.mark.parametrize(
    ("changes", "tokens", "admitted"),
    [
        pytest.param({}, 24, True, id="all its tokens have room"),
        pytest.param({}, 28, False, id="its first chunk alone is not enough"),
        pytest.param({"reserve_full_prompt": False}, 28, True, id="unless that is enough"),
        pytest.param({"watermark": 0.2}, 12, True, id="with the watermark"),
        pytest.param({"watermark": 0.2}, 16, False, id="above the watermark"),
    ],
)
def test_admission(changes: dict[str, Any], tokens: int, admitted: bool) -> None:
    """Beside a running request that has taken 10 of 16 blocks; only what is computed in the step is taken at once."""
    scheduler = make(max_num_batched_tokens=20, **changes)
    scheduler.add(ask(A, 37), 0.0)
    step(scheduler)
    step(scheduler)
    scheduler.add(ask(B, tokens), 0.0)
    before = scheduler.stats.free_blocks
    sizes = step(scheduler)[0]
    assert (B in sizes) == admitted
    assert before - scheduler.stats.free_blocks == (-(-sizes[B] // BLOCK) if admitted else 0)


def test_the_watermark_is_not_for_a_lone_request() -> None:
    """Else it might never run."""
    scheduler = make(watermark=0.5)
    scheduler.add(ask(A, 60), 0.0)
    assert A in step(scheduler)[0]


def test_equal_prompts_in_one_step_are_computed_once() -> None:
    """Full blocks are found as soon as they are scheduled; the last token is computed by each."""
    scheduler = make()
    scheduler.add(ask(A, 9, first=0), 0.0)
    scheduler.add(ask(B, 9, first=0), 0.0)
    assert step(scheduler)[0] == {A: 9, B: 1}


def test_a_pull_leaves_what_others_need() -> None:
    """It starts when what the prefills under way still lack stays free; it takes none of the step's tokens."""
    scheduler = make(max_num_batched_tokens=8, long_prefill_threshold_tokens=6)
    source = RemotePrompt("far", LegId("kept"), "", 0, 20)
    scheduler.add(ask(A, 44), 0.0)
    step(scheduler)
    scheduler.add(ask(B, 20, remote=source), 0.0)
    pulls = [bool(step(scheduler)[1].pulls) for _ in range(5)]
    assert pulls == [True, False, False, False, False]
    late = make(max_num_batched_tokens=8, long_prefill_threshold_tokens=6)
    late.add(ask(A, 48), 0.0)
    step(late)
    late.add(ask(B, 20, remote=source), 0.0)
    assert not step(late)[1].pulls


@pytest.mark.parametrize(("name", "value"), [("watermark", 1.0), ("watermark", -0.1), ("long_prefill_threshold_tokens", -1)])
def test_what_cannot_work_is_refused(name: str, value: float) -> None:
    """With the field's name."""
    with pytest.raises(ConfigError, match=name):
        make(**{name: value})
