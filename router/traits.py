"""The one place that says how a request may be served by several workers without changing its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest


@dataclass(frozen=True, slots=True)
class Traits:
    """How a request may be served."""

    splittable: bool
    """Whether prefill and decode may be on different workers at all."""
    continuable: bool
    """Whether tokens made on one worker can be followed by another's, exactly: prefill's token is then the client's first,
    and an answer whose worker is lost goes on elsewhere. If not, decode samples the first token again, behind the transfer,
    and a loss after the first token is an error."""
    reason: str
    """Why, in words, for the decision's record."""

    @property
    def first_token_counts(self) -> bool:
        """Whether the token that prefill samples is the client's first token."""
        return self.continuable


def traits(request: EngineCoreRequest) -> Traits:
    """Decides from the request alone.

    Engines take emitted tokens as their own output, as vLLM does after a preemption (``engine.vllm_continuation``). So all
    sampling that looks back at prompt and output goes on exactly: seeds, penalties, min_tokens, bad words, grammars behind
    reasoning or not, repetition detection, watermarks, custom logits processors that read the output they are handed.
    What is left are states that vLLM loses itself when it preempts.

    "Exactly" is vLLM's own: a batch of other size can round the last bit of a logit otherwise, and with speculative decoding
    a seed repeats an answer only while drafts begin at the same tokens. Neither can be seen in a request.
    """
    sampling = request.sampling_params
    if sampling is None:
        return Traits(False, True, "pooling: no token is ever emitted")
    if request.prompt_token_ids is None or request.prompt_embeds is not None:
        return Traits(False, True, "prompt_embeds: not a prompt of tokens")
    if sampling.max_tokens == 1:
        return Traits(False, True, "one output token: there is nothing to decode")
    if sampling.thinking_token_budget is not None:
        # The V1 model runner counts step by step; given an output in which thinking has ended once, it counts otherwise.
        return Traits(True, False, "thinking_token_budget: vLLM cannot count again what was thought elsewhere")
    return Traits(True, True, "engines take up each other's output")
