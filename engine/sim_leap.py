"""Leaps: many steps of nothing but decoding, told and timed as one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import sqrt
from typing import Protocol

import msgspec

from core.step_model import StepModel, StepWork
from engine.base import StepSample
from engine.sim_step import Chunk, Step

SEGMENT_STEPS = 128
"""Steps between two evaluations of a timing that is not a polynomial: its durations are taken for linear in between."""


class StepTime(Protocol):
    """What a leap asks of a timing."""

    def step_s(self, work: StepWork) -> float: ...


class Gaps(msgspec.Struct, frozen=True, gc=False):
    """When the tokens of a leap came."""

    first_end_s: float
    """The end of its first step."""
    last_begin_s: float
    """The end of the one before the last."""
    longest_s: float
    """Of all steps but the first."""


def most_steps(chunks: Sequence[Chunk], block_size_tokens: int, free_blocks: int, blocked: bool, limit: int) -> int:
    """How many steps of these chunks are sure to follow each other, the first included, if nothing is asked meanwhile.

    All must decode to a known end and have told their first token, none may end before the last step, and their new blocks must be
    free. Where somebody is ``blocked`` for want of blocks, nothing new may become findable for him.
    """
    most = limit
    for chunk in chunks:
        sequence = chunk.sequence
        if not sequence.known_end or chunk.tokens != 1 or chunk.start < sequence.given or chunk.start + 1 != sequence.length:
            return 1
        left = sequence.end_length - sequence.length
        if left < most:  # noqa: PLR1730  (half the time of min, in the innermost loop)
            most = left
        if blocked:
            next_full = (sequence.stored + 1) * block_size_tokens
            if len(sequence.hashes(sequence.stored + 1, block_size_tokens)) > sequence.stored:
                most = min(most, next_full - chunk.start - 1)
    if most <= 1 or not chunks:
        return 1
    if free_blocks >= len(chunks) * (most // block_size_tokens + 1) or growth(chunks, block_size_tokens, most) <= free_blocks:
        return most
    return max(1, bisect_right(range(most), free_blocks, key=lambda steps: growth(chunks, block_size_tokens, steps)) - 1)


def growth(chunks: Sequence[Chunk], block_size_tokens: int, steps: int) -> int:
    """Blocks that ``steps`` steps take beyond those held."""
    return sum(max(0, -(-(chunk.start + steps) // block_size_tokens) - len(chunk.sequence.blocks)) for chunk in chunks)


class LeapClock:
    """When each step of a leap ends; of a step that is no leap, too.

    Exact (but for rounding) where durations grow linearly with the context, as a ``StepModel``'s do. Any other timing is evaluated every
    ``SEGMENT_STEPS`` steps and taken for linear in between, where a context grows by so many tokens per sequence: the error is a
    table's bend within them, far below 1 % of the leap for tables as they are measured.
    """

    def __init__(self, step: Step, timing: StepTime, began_s: float) -> None:
        self.began_s = began_s
        self.steps = step.steps
        self._work = work = step.work
        if step.steps == 1:
            knots = [0]
        elif isinstance(timing, StepModel):
            knots = [0, step.steps - 1]
        else:
            knots = [*range(0, step.steps - 1, SEGMENT_STEPS), step.steps - 1]
        self._knots = knots
        """Steps, counted from 0, whose duration is known."""
        first_s = timing.step_s(work)
        self._durations_s = [first_s, *(timing.step_s(self._work_of(knot)) for knot in knots[1:])]
        self._begins_s = [0.0]
        """When the steps of ``_knots`` begin, since ``began_s``."""
        for index in range(len(knots) - 1):
            self._begins_s.append(self._begins_s[index] + self._segment_s(index, knots[index + 1] - knots[index]))

    @property
    def end_s(self) -> float:
        """When the last step ends."""
        return self.ends_s(self.steps)

    def ends_s(self, steps: int) -> float:
        """When the first ``steps`` steps are over."""
        if steps <= 0:
            return self.began_s
        index = bisect_left(self._knots, steps) - 1
        return self.began_s + self._begins_s[index] + self._segment_s(index, steps - self._knots[index])

    def steps_done_at(self, now: float) -> int:
        """Steps that are over at ``now``."""
        index = bisect_right(self._begins_s, now - self.began_s) - 1
        if index < 0:
            return 0
        first_s, slope_s = self._durations_s[index], self._slope_s(index)
        left_s = now - self.began_s - self._begins_s[index]
        # The end of the n-th step is a parabola in n; its root is right but for rounding, which the loops mend.
        half_s = first_s - slope_s / 2
        root_s = half_s + sqrt(max(0.0, half_s * half_s + 2 * slope_s * left_s))
        steps = self._knots[index] + (int(2 * left_s / root_s) if root_s > 0 else self.steps)
        steps = min(steps, self.steps)
        while steps < self.steps and self.ends_s(steps + 1) <= now:
            steps += 1
        while steps > 0 and self.ends_s(steps) > now:
            steps -= 1
        return steps

    def boundary_after(self, now: float) -> int:
        """The step that is under way at ``now``, counted from 1: with its end it is known what was asked until then."""
        done = self.steps_done_at(now)
        return max(1, done if self.ends_s(done) == now else min(done + 1, self.steps))

    def gaps(self, steps: int) -> Gaps:
        """When the tokens of the first ``steps`` (at least 2) steps came."""
        inside = bisect_left(self._knots, steps)
        longest_s = max((duration for knot, duration in zip(self._knots[1:inside], self._durations_s[1:], strict=False)), default=0.0)
        edges_s = max(self._duration_s(1), self._duration_s(steps - 1))
        return Gaps(self.ends_s(1), self.ends_s(steps - 1), max(longest_s, edges_s))

    def samples(self, steps: int) -> list[StepSample]:
        """The first and the last of the first ``steps`` steps."""
        return [StepSample(self._work_of(step), self._duration_s(step)) for step in sorted({0, steps - 1})]

    def _work_of(self, step: int) -> StepWork:
        """Of one step, counted from 0."""
        work = self._work
        return StepWork(work.prefill_tokens, work.prefill_squares, work.batch, work.context_tokens + work.batch * step)

    def _duration_s(self, step: int) -> float:
        """Of one step, counted from 0."""
        index = max(0, bisect_left(self._knots, step) - 1)
        return self._durations_s[index] + self._slope_s(index) * (step - self._knots[index])

    def _slope_s(self, index: int) -> float:
        """By how much longer each step behind a knot is than the one before."""
        if index + 1 >= len(self._knots):
            return 0.0
        return (self._durations_s[index + 1] - self._durations_s[index]) / (self._knots[index + 1] - self._knots[index])

    def _segment_s(self, index: int, steps: int) -> float:
        """How long so many steps from a knot on take."""
        return steps * self._durations_s[index] + self._slope_s(index) * (steps * (steps - 1) / 2)
