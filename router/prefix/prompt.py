"""The block keys of a request's prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.block_keys import BlockKey, BlockKeys

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest


@dataclass(frozen=True, slots=True)
class PromptKeys:
    """Made once for a request, and good for as long as its prompt."""

    tokens: int = 0
    by_size: Mapping[int, Sequence[BlockKey]] = field(default_factory=dict)
    """For each block size that workers have: the keys of the full blocks at the prompt's beginning that tokens, LoRA adapter and salt
    name completely. Blocks with an image, or behind one, are none of them."""
    reads_cache: bool = True
    """Whether engines use cached blocks for it. For prompt logprobs they compute it all."""


def prompt_keys(request: EngineCoreRequest, makers: Mapping[int, BlockKeys]) -> PromptKeys:
    """``makers`` by block size."""
    token_ids = request.prompt_token_ids
    if not token_ids or request.prompt_embeds is not None:
        return PromptKeys(len(token_ids or ()))
    plain = min((feature.mm_position.offset for feature in request.mm_features or ()), default=len(token_ids))
    adapter = request.lora_request.lora_name if request.lora_request is not None else None
    beginning = token_ids if plain == len(token_ids) else token_ids[:plain]
    keys = {size: maker.prompt(beginning, request.cache_salt or None, adapter) for size, maker in makers.items()}
    params = request.sampling_params or request.pooling_params
    return PromptKeys(len(token_ids), keys, not getattr(params, "skip_reading_prefix_cache", False))
