"""The sampling parameters each leg of a split request is given, so that the legs together are one undivided request.

Works on vLLM's ``SamplingParams`` by its attributes; needs nothing of vLLM imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import SamplingParams

TRANSFER_KEY = "kv_transfer_params"
EMITTED_KEY = "baton_emitted"
"""In the transfer parameters: output tokens that are out already. The engine takes them as its own output, not as prompt."""


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


def emitted_tokens(sampling: SamplingParams | None) -> list[int]:
    """What ``with_transfer`` was told under ``EMITTED_KEY``; mostly empty."""
    transfer = (sampling.extra_args or {}).get(TRANSFER_KEY) if sampling is not None else None
    return (transfer or {}).get(EMITTED_KEY) or []


def continued(sampling: SamplingParams, emitted: Sequence[int], transfer: Mapping[str, Any] | None = None) -> SamplingParams:
    """For a leg that goes on behind ``emitted`` output tokens; limits stay those of the whole request. None: unchanged.

    ``transfer`` is what else the KV connector is told.
    """
    told = {**(transfer or {}), EMITTED_KEY: list(emitted)} if emitted else transfer
    if told is None:
        return sampling
    changed = with_transfer(sampling, told)
    return without_prompt_logprobs(changed) if emitted else changed


def one_more(sampling: SamplingParams, emitted: int) -> SamplingParams:
    """For a prefill leg behind ``emitted`` tokens whose token the client gets: sampled as asked, and the last."""
    changed = sampling.clone()
    changed.max_tokens = emitted + 1
    changed.min_tokens = min(sampling.min_tokens, emitted + 1)  # vLLM wants it so; the token is the same
    return changed


def discarded(sampling: SamplingParams, emitted: int) -> SamplingParams:
    """For a prefill leg whose token is thrown away: the cheapest there is. Prompt logprobs come from here all the same."""
    changed = sampling.clone()
    changed.max_tokens = emitted + 1
    changed.min_tokens = 0
    changed.temperature = 0.0
    changed.top_p, changed.top_k, changed.min_p = 1.0, 0, 0.0
    changed.seed = None
    changed.logprobs = changed.logprob_token_ids = None
    changed.structured_outputs = None
    changed.presence_penalty = changed.frequency_penalty = 0.0
    changed.repetition_penalty = 1.0
    return changed


def without_prompt_logprobs(sampling: SamplingParams) -> SamplingParams:
    """For a leg behind another one that has told them: asking for them makes vLLM ignore every cached and pulled block."""
    if sampling.prompt_logprobs is None and sampling.prompt_logprob_token_ids is None:
        return sampling
    changed = sampling.clone()
    changed.prompt_logprobs = changed.prompt_logprob_token_ids = None
    changed.skip_reading_prefix_cache = False
    return changed
