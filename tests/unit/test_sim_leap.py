"""When the steps of a leap end, and how long a leap may be."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ids import LegId
from core.step_model import StepWork
from engine.sim_blocks import BlockHash
from engine.sim_content import LengthPrompt
from engine.sim_leap import LeapClock, StepTime, most_steps
from engine.sim_request import SimRequest
from engine.sim_sequence import SimSequence
from engine.sim_step import Chunk, Step
from engine.sim_timing import ConstantTime, PolynomialTime
from engine.sim_tokens import TokenRule

BLOCK = 4
POLYNOMIAL = PolynomialTime(decode_base_s=0.007, decode_request_s=0.0003, decode_context_s=1.9e-6)


class Bent:
    """A table's shape: measured at few contexts, straight in between."""

    knots = ((0, 0.006), (1_000, 0.0064), (2_000, 0.0072), (4_000, 0.0095), (1_000_000, 1.5))

    def step_s(self, work: StepWork) -> float:
        each = work.context_tokens / work.batch
        for (x0, y0), (x1, y1) in pairwise(self.knots):
            if each <= x1:
                return y0 + (y1 - y0) * (each - x0) / (x1 - x0) + 1e-5 * work.batch
        raise AssertionError


def decoding(lengths: list[int], steps: int = 1, left: int = 10_000, names: int = 0) -> Step:
    """A step in which sequences of these lengths, each with one token made here, make their next."""
    chunks = []
    for number, length in enumerate(lengths):
        prompt = LengthPrompt(length - 1, (), tuple(BlockHash(index) for index in range(names)))
        sequence = SimSequence(SimRequest(LegId(str(number)), prompt, left + 1), TokenRule(10), BLOCK, 1_000_000, 0.0)
        sequence.length, sequence.computed = length, length - 1
        sequence.blocks = list(range(-(-length // BLOCK)))
        sequence.stored = length // BLOCK
        chunks.append(Chunk(sequence, length - 1, 1))
    return Step(chunks=chunks, steps=steps)


def one_by_one(step: Step, timing: StepTime) -> list[float]:
    """The end of every step, each computed by itself."""
    ends, work = [2.5], step.work
    for number in range(step.steps):
        ends.append(ends[-1] + timing.step_s(StepWork(batch=work.batch, context_tokens=work.context_tokens + work.batch * number)))
    return ends


@pytest.mark.parametrize(
    ("timing", "relative"),
    [
        pytest.param(POLYNOMIAL, 1e-9, id="polynomial"),
        pytest.param(ConstantTime(0.01), 1e-9, id="constant"),
        pytest.param(Bent(), 1e-3, id="table"),
    ],
)
@pytest.mark.parametrize("steps", [1, 2, 3, 127, 128, 129, 1_500])
@pytest.mark.parametrize("lengths", [[2], [900, 950, 20], [1_000] * 50])
def test_a_leap_ends_when_its_steps_would(timing: StepTime, relative: float, steps: int, lengths: list[int]) -> None:
    """Every boundary, and the gaps between tokens: exact for what grows linearly, within a thousandth for a table that bends."""
    step = decoding(lengths, steps)
    clock, ends = LeapClock(step, timing, 2.5), one_by_one(step, timing)
    assert [clock.ends_s(number) - 2.5 for number in range(steps + 1)] == pytest.approx([end - 2.5 for end in ends], rel=relative)
    assert clock.end_s == clock.ends_s(steps)
    for until in {2, steps // 2, steps} - {0, 1}:
        if until <= steps:
            gaps = clock.gaps(until)
            durations = [after - before for before, after in pairwise(ends)][1:until]
            assert gaps.first_end_s == clock.ends_s(1)
            assert gaps.last_begin_s == clock.ends_s(until - 1)
            assert gaps.longest_s == pytest.approx(max(durations), rel=max(relative, 1e-6) * 10)


@settings(deadline=None)
@given(
    steps=st.integers(1, 2_000),
    length=st.integers(2, 5_000),
    batch=st.integers(1, 64),
    share=st.floats(-0.1, 1.1),
    timing=st.sampled_from([POLYNOMIAL, ConstantTime(0.01), Bent(), ConstantTime(0.0)]),
)
def test_the_step_under_way(steps: int, length: int, batch: int, share: float, timing: StepTime) -> None:
    """``steps_done_at`` counts the ends that lie behind; the step under way ends next, and one that ends now is still under way."""
    clock = LeapClock(decoding([length] * batch, steps), timing, 2.5)
    now = 2.5 + share * (clock.end_s - 2.5)
    done = clock.steps_done_at(now)
    assert 0 <= done <= steps
    assert done == 0 or clock.ends_s(done) <= now
    assert done == steps or clock.ends_s(done + 1) > now
    current = clock.boundary_after(now)
    assert 1 <= current <= steps
    assert clock.ends_s(current) >= min(now, clock.end_s)
    if timing != ConstantTime(0.0):
        assert current == 1 or clock.ends_s(current - 1) < now
        assert clock.boundary_after(clock.ends_s(current)) == current


@pytest.mark.parametrize(
    ("lengths", "left", "names", "free_blocks", "blocked", "limit", "most"),
    [
        pytest.param([10, 30], 50, 0, 100, False, 1_000, 50, id="until the first ends"),
        pytest.param([10, 30], 50, 0, 100, False, 7, 7, id="no more than asked for"),
        pytest.param([10], 50, 0, 2, False, 1_000, 11, id="as long as blocks are free"),
        pytest.param([12, 12], 50, 0, 2, False, 1_000, 5, id="each takes a block at the same time"),
        pytest.param([12, 12], 50, 0, 1, False, 1_000, 1, id="one block for two"),
        pytest.param([10], 50, 9, 100, False, 1_000, 50, id="a named block may fill"),
        pytest.param([10], 50, 9, 100, True, 1_000, 2, id="not if somebody could find it"),
        pytest.param([10], 50, 0, 100, True, 1_000, 50, id="nameless blocks help nobody"),
        pytest.param([], 50, 0, 100, False, 1_000, 1, id="nothing"),
    ],
)
def test_how_long_a_leap_may_be(lengths: list[int], left: int, names: int, free_blocks: int, blocked: bool, limit: int, most: int) -> None:
    """Nothing may happen in it that would change who is in the next step."""
    assert most_steps(decoding(lengths, left=left, names=names).chunks, BLOCK, free_blocks, blocked, limit) == most


def test_only_decoding_leaps() -> None:
    """No leap with a piece of a prompt, nor one in which a first token would be told late."""
    [chunk] = decoding([10]).chunks
    for start, tokens in ((8, 2), (8, 1)):
        assert most_steps([Chunk(chunk.sequence, start, tokens)], BLOCK, 100, False, 1_000) == 1
    sequence = SimSequence(SimRequest(LegId("a"), LengthPrompt(10), 50), TokenRule(10), BLOCK, 1_000, 0.0)
    assert most_steps([Chunk(sequence, 9, 1)], BLOCK, 100, False, 1_000) == 1
