"""The one place that says how a request may be split over two workers without changing its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest


@dataclass(frozen=True, slots=True)
class Traits:
    """How a request may be served."""

    splittable: bool
    """Whether prefill and decode may be on different workers at all."""
    first_token_counts: bool
    """Whether the token that prefill samples is the client's first token. If not, decode samples it again, behind the
    transfer, as other systems always do."""
    reason: str
    """Why, in words, for the decision's record."""


def traits(request: EngineCoreRequest) -> Traits:
    """Decides from the request alone.

    When the first token counts, decode sees it as the end of its prompt, no longer as output. Any sampling that looks back
    at the *output* would then see one token too few: those requests have their first token sampled by decode.
    """
    sampling = request.sampling_params
    if sampling is None or request.prompt_token_ids is None or request.prompt_embeds is not None:
        return Traits(False, False, "not a prompt of tokens")
    if sampling.max_tokens == 1:
        return Traits(False, False, "one output token: there is nothing to decode")
    if looks_back := _looks_back(sampling):
        return Traits(True, False, f"{looks_back}: sampling depends on the output so far")
    return Traits(True, True, "sampling does not depend on the output so far")


def _looks_back(sampling: SamplingParams) -> str | None:
    """The first parameter found that makes sampling depend on output history, or None."""
    checks = {
        "seed": sampling.seed is not None,  # a request's generator starts anew on the second worker
        "presence_penalty": sampling.presence_penalty != 0.0,
        "frequency_penalty": sampling.frequency_penalty != 0.0,
        "repetition_penalty": sampling.repetition_penalty != 1.0,
        "min_tokens": sampling.min_tokens > 0,
        "structured_outputs": sampling.structured_outputs is not None,  # the grammar's state
        "bad_words": bool(sampling.bad_words),  # words of several tokens
        "watermarking": bool(sampling.watermarking),  # marks a token by those before it
        "thinking_token_budget": sampling.thinking_token_budget is not None,
        "repetition_detection": sampling.repetition_detection is not None,
        "trace_decode_token_ids": sampling.trace_decode_token_ids is not None,  # told by their place in the output
        "custom logits processor arguments": bool(sampling.extra_args),
    }
    return next((name for name, found in checks.items() if found), None)
