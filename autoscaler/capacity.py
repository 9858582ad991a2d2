"""What one worker can do within the objective, from the step times it has measured itself."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from autoscaler.policy import Objective
from autoscaler.signals import WorkerSignal
from core.step_model import StepModel
from core.worker import EngineFacts, Role

_TPOT_SHARE = 0.92
"""Of the promised time per token that steps may take: the rest goes to prompts computed in between and to uneven batches
(AIConfigurator matches decode rates with the same share)."""
_TIMES_ALONE = 2.0
"""Where even a request on its own gets its tokens later than promised, steps are to take so many times what they take with one: no number
of workers keeps the promise, and a worker per request would cost many times as much for little."""


class Shape(msgspec.Struct, frozen=True):
    """A mean request."""

    prompt_tokens: float
    cached_tokens: float
    output_tokens: float

    @property
    def uncached_tokens(self) -> float:
        """Those a prefill worker has to compute."""
        return self.prompt_tokens - self.cached_tokens

    def with_prompts(self, prompt_tokens: float) -> Shape:
        """Other prompts, of which as much is cached."""
        return Shape(prompt_tokens, self.cached_tokens / max(1.0, self.prompt_tokens) * prompt_tokens, self.output_tokens)

    def tokens(self, role: Role) -> float:
        """The work that one is for a role: prompt tokens to compute, or output tokens."""
        return max(1.0, self.uncached_tokens) if role is Role.PREFILL else self.output_tokens

    @property
    def context_tokens(self) -> float:
        """What it attends to in the middle of its answer."""
        return self.prompt_tokens + self.output_tokens / 2


class Engine(msgspec.Struct, frozen=True):
    """What a worker's speed depends on."""

    step: StepModel
    facts: EngineFacts


class PrefillCapacity(msgspec.Struct, frozen=True):
    """Of one worker that computes prompts of one shape."""

    alone_s: float
    """From the first step of a prompt to its first token, with nobody else there."""
    busy_s: float
    """What it adds to the work of a worker that fills its steps with several."""


class DecodeCapacity(msgspec.Struct, frozen=True):
    """Of one worker that decodes requests of one shape."""

    batch: float
    """Requests at once, so that each step keeps the objective and all KV has room; at least 1."""
    step_s: float
    keeps: bool
    """Whether a request on its own keeps the objective."""


def knows(step: StepModel, role: Role) -> bool:
    """Whether a model says anything of one side: where nothing was measured, all three terms are 0."""
    if role is Role.PREFILL:
        return step.prefill_base_s + step.prefill_token_s + step.prefill_square_s > 0
    return step.decode_base_s + step.decode_request_s + step.decode_context_s > 0


def prefill_capacity(engine: Engine, shape: Shape) -> PrefillCapacity:
    """For any shape: one without tokens to compute takes one token's time."""
    step, per_step = engine.step, engine.facts.max_num_batched_tokens
    new, cached = max(1, round(shape.uncached_tokens)), max(0, round(shape.cached_tokens))
    alone_s = step.prefill_s(new, cached, per_step)
    steps = -(-new // per_step)
    shared_s = alone_s - (steps - new / per_step) * step.prefill_base_s
    return PrefillCapacity(alone_s, shared_s)


def decode_capacity(engine: Engine, shape: Shape, objective: Objective) -> DecodeCapacity:
    """The largest batch whose steps are short enough, with room for its KV, in the middle of its answers.

    Where not even one request's steps are, twice those are short enough."""
    step, facts = engine.step, engine.facts
    context = max(1.0, shape.context_tokens)
    room = min(facts.max_num_seqs, facts.num_blocks * facts.block_size_tokens / context)
    each_s = step.decode_request_s + step.decode_context_s * context
    alone_s = step.decode_base_s + each_s
    keeps = alone_s <= objective.tpot_s
    aimed_s = objective.tpot_s if keeps else _TIMES_ALONE * alone_s
    left_s = aimed_s * _TPOT_SHARE - step.decode_base_s
    within = math.inf if each_s <= 0 < left_s else left_s / each_s if each_s > 0 else 0.0
    batch = max(1.0, min(room, within))
    step_s = step.decode_base_s + each_s * batch
    return DecodeCapacity(batch, step_s, keeps)


def typical(workers: Iterable[WorkerSignal], role: Role) -> Engine | None:
    """The engine in the middle of those that have measured what the role does: by their own pool, or by the other one if nobody there has.

    Cold ones are left out, so that a worker's first steps, with empty caches, do not pass for its speed.
    """
    known = [
        (worker.role is role, Engine(worker.step, worker.facts))
        for worker in workers
        if worker.warm and worker.step is not None and worker.facts is not None and knows(worker.step, role)
    ]
    own = [engine for is_own, engine in known if is_own] or [engine for _, engine in known]
    return sorted(own, key=lambda engine: _speed(engine.step, role))[(len(own) - 1) // 2] if own else None


def _speed(step: StepModel, role: Role) -> float:
    """Something to put engines in order by, alike for all."""
    return step.prefill_s(2048, 0, 2048) if role is Role.PREFILL else step.decode_s(32, 32 * 2048)
