"""The sampling parameters each leg of a split request is given, so that the legs together are one undivided request.

Works on vLLM's ``SamplingParams`` by its attributes; needs nothing of vLLM imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import SamplingParams

TRANSFER_KEY = "kv_transfer_params"


def with_transfer(sampling: SamplingParams, transfer: Mapping[str, Any]) -> SamplingParams:
    """A copy that tells the engine's KV connector what to keep or pull."""
    changed = sampling.clone()
    changed.extra_args = {**(sampling.extra_args or {}), TRANSFER_KEY: dict(transfer)}
    return changed


def without_transfer(sampling: SamplingParams) -> SamplingParams:
    """The parameters less anything about KV transfer: a client must not name blocks or engines."""
    if not sampling.extra_args or TRANSFER_KEY not in sampling.extra_args:
        return sampling
    changed = sampling.clone()
    changed.extra_args = {name: value for name, value in sampling.extra_args.items() if name != TRANSFER_KEY} or None
    return changed


def first_token_sample(sampling: SamplingParams) -> SamplingParams:
    """For a prefill leg whose token the client gets: sampled as asked, one token long."""
    changed = sampling.clone()
    changed.max_tokens = 1
    changed.min_tokens = min(sampling.min_tokens, 1)
    return changed


def discarded_sample(sampling: SamplingParams) -> SamplingParams:
    """For a prefill leg whose token is thrown away: the cheapest there is. Prompt logprobs come from here all the same."""
    changed = sampling.clone()
    changed.max_tokens = 1
    changed.min_tokens = 0
    changed.temperature = 0.0
    changed.top_p, changed.top_k, changed.min_p = 1.0, 0, 0.0
    changed.seed = None
    changed.logprobs = changed.logprob_token_ids = None
    changed.structured_outputs = None
    changed.presence_penalty = changed.frequency_penalty = 0.0
    changed.repetition_penalty = 1.0
    return changed


def continued_sample(sampling: SamplingParams, emitted: int) -> SamplingParams:
    """For a decode leg behind ``emitted`` output tokens: what is left of the limits. Prompt logprobs are told already.

    Asking for prompt logprobs makes vLLM ignore every cached and pulled block, so they must not be asked twice.
    """
    changed = sampling.clone()
    if sampling.prompt_logprobs is not None or sampling.prompt_logprob_token_ids is not None:
        changed.prompt_logprobs = changed.prompt_logprob_token_ids = None
        changed.skip_reading_prefix_cache = False
    if sampling.max_tokens is not None:
        changed.max_tokens = sampling.max_tokens - emitted
    changed.min_tokens = max(0, sampling.min_tokens - emitted)
    return changed
