"""How long each engine step takes and what it computes, as seen from the scheduler's side of a connector. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from typing import TYPE_CHECKING

from core.step_model import StepWork
from engine.base import StepSample

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput


class StepClock:
    """Told when a step is scheduled and when its outputs are there, step by step; at most ``depth`` of them overlap.

    A step's time begins when the one before it ended, if the engine was busy all the while: the work between two steps is then
    counted, and a step that was scheduled ahead is not counted twice. Behind a pause it begins when it was scheduled.
    """

    def __init__(self, depth: int) -> None:
        # Bounded as steps are: one whose outputs never came (it raised) makes way for those behind it.
        self._under_way: deque[tuple[StepWork, Set[str], float]] = deque(maxlen=depth)
        self._last: Set[str] = frozenset()
        """Who was in the step that ended last."""
        self._ended_s = float("-inf")

    def scheduled(self, work: StepWork, legs: Set[str], now: float) -> None:
        """A step with these requests goes to the model now. ``legs`` must not change afterwards."""
        self._under_way.append((work, legs, now))

    def updated(self, now: float) -> StepSample | None:
        """The oldest step under way has ended. None where it computed nothing."""
        if not self._under_way:
            return None
        work, legs, scheduled_s = self._under_way.popleft()
        # A request that goes on kept the engine going: it does not wait for calls then.
        was_busy = scheduled_s <= self._ended_s or not self._last.isdisjoint(legs)
        began_s = self._ended_s if was_busy else scheduled_s
        self._last, self._ended_s = legs, now
        return StepSample(work, now - began_s) if legs else None


def work_of(step: SchedulerOutput) -> StepWork:
    """What a step computes. One token behind a context is a decode, and so is one with drafts to verify; all else is prompt."""
    scheduled, cached = step.num_scheduled_tokens, step.scheduled_cached_reqs
    count = len(scheduled)
    if not step.scheduled_new_reqs and step.total_num_scheduled_tokens == count:  # most steps, and the long ones
        return StepWork(batch=count, context_tokens=sum(cached.num_computed_tokens) + count)
    drafts = step.scheduled_spec_decode_tokens
    starts = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    starts.update({new.req_id: new.num_computed_tokens for new in step.scheduled_new_reqs})
    # Few are anything but decodes, which are not looked at one by one: this runs between two steps, with hundreds of requests.
    others = {leg: tokens for leg, tokens in scheduled.items() if tokens != 1}
    others.update({new.req_id: 1 for new in step.scheduled_new_reqs if not new.num_computed_tokens and scheduled[new.req_id] == 1})
    prefill_tokens = prefill_squares = 0
    batch, context_tokens = count, sum(starts.values()) + count
    for leg, tokens in others.items():
        start = starts[leg]
        end = start + tokens
        if leg in drafts:
            context_tokens += tokens - 1
            continue
        batch -= 1
        context_tokens -= start + 1
        prefill_tokens += tokens
        prefill_squares += end * end - start * start
    return StepWork(prefill_tokens, prefill_squares, batch, context_tokens)
