"""What a price is put together from: each part is worked out once in a decision, by ``pricing.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from core.ids import WorkerId
from core.step_model import StepModel
from router.balancer.adapter_load import NOTHING_TO_LOAD, Loading
from router.plan import Plan, Scored, WorkerView

TERMS = ("queue", "load", "prefill", "transfer", "admit", "decode", "interference", "misses")


@dataclass(slots=True)
class Place:
    """One worker."""

    worker: WorkerId
    seen: WorkerView
    model: StepModel
    budget: int
    """Tokens per step."""
    cached: int
    """Tokens of the prompt that need not be computed there. The last one always is."""
    share: float
    """The part of its pool's time that prompts have had lately."""
    load: Loading
    """What it takes until the request's adapter is there."""
    steps: dict[int, Steps]
    """By the size of the batch."""

    @property
    def most_s(self) -> float:
        """What a step is longer by, if prompts fill it."""
        return self.model.prefill_s(self.budget, 0, self.budget)


@dataclass(slots=True)
class Prompt:
    """Computing the prompt on one worker."""

    queue_s: float
    prefill_s: float
    total_s: float
    stall_s: float
    """By how much it holds up whoever decodes there."""
    step_stall_s: float
    """By how much it makes one step of theirs longer."""
    stalled_s: float
    """What all of them, together, lose by it."""
    load: Loading = NOTHING_TO_LOAD
    comes: float = 0.0
    """So many others are handed over there per second; 0, too, where nobody looks at what it breaks."""


KEPT_PROMPT = Prompt(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""One that is computed already."""


@dataclass(slots=True)
class Steps:
    """Decoding on one worker beside a batch of some size."""

    batch: int
    step_s: float
    alone_s: float
    """The same, if no prompt is computed beside."""
    slower_s: float
    """What each of the others loses by this request."""
    breaks: float
    """Promises given to others that it probably breaks."""


class Decoding(NamedTuple):
    """Decoding on one worker from some time on."""

    steps: Steps
    admit_s: float
    cost_s: float
    """Whatever it is handed over by."""


@dataclass(slots=True)
class Priced:
    """What a plan costs, and what is to be expected of it."""

    plan: Plan
    cost: float
    terms: Sequence[float]
    """In the order of ``TERMS``."""
    ttft_s: float
    tpot_s: float
    keeps: float
    breaks: float
    step_s: float
    stall_s: float
    prompt_s: float
    moves_s: float

    def scored(self) -> Scored:
        """The same, to be written down."""
        reason = f"{self.ttft_s:.3g} s to the first token, {self.tpot_s:.3g} s per token"
        terms = dict(zip(TERMS, self.terms, strict=True))
        objectives = (self.ttft_s, self.tpot_s, self.keeps, self.breaks)
        return Scored(self.plan, self.cost, reason, terms, *objectives, self.step_s, self.stall_s, self.prompt_s, self.moves_s)
