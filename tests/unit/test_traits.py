"""Which requests may be split, and which can go on elsewhere: one line per sampling parameter vLLM has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, SamplingParams, StructuredOutputsParams

from router.traits import Traits, traits
from tests.contract.engine_contract import ask

GOES_ON = (True, True)
"""Split; prefill's token is the client's first, and what a lost worker leaves is gone on with."""
HOLDS = (True, False)
"""Split; decode samples the first token, for it sees all output. Lost with its worker."""
WHOLE = (False, True)
"""One worker."""

TABLE: dict[str, tuple[dict[str, Any], tuple[bool, bool]]] = {
    # A value other than the default for every parameter.
    "n": ({"n": 2, "temperature": 1.0}, GOES_ON),  # the front half has made one request of each; what is left of it means nothing
    "presence_penalty": ({"presence_penalty": 0.5}, GOES_ON),
    "frequency_penalty": ({"frequency_penalty": -0.5}, GOES_ON),
    "repetition_penalty": ({"repetition_penalty": 1.1}, GOES_ON),
    "temperature": ({"temperature": 0.7}, GOES_ON),
    "watermarking": ({"watermarking": True}, GOES_ON),
    "top_p": ({"top_p": 0.5, "temperature": 1.0}, GOES_ON),
    "top_k": ({"top_k": 5, "temperature": 1.0}, GOES_ON),
    "min_p": ({"min_p": 0.1, "temperature": 1.0}, GOES_ON),
    "seed": ({"seed": 0}, GOES_ON),
    "stop": ({"stop": ["x"]}, GOES_ON),  # the front half looks for strings
    "stop_token_ids": ({"stop_token_ids": [5]}, GOES_ON),
    "ignore_eos": ({"ignore_eos": False}, GOES_ON),
    "max_tokens": ({"max_tokens": 1}, WHOLE),
    "min_tokens": ({"min_tokens": 1}, GOES_ON),
    "logprobs": ({"logprobs": 3}, GOES_ON),
    "prompt_logprobs": ({"prompt_logprobs": 3}, GOES_ON),
    "prompt_logprob_token_ids": ({"prompt_logprob_token_ids": [[1]]}, GOES_ON),
    "prompt_logprob_start": ({"prompt_logprobs": 1, "prompt_logprob_start": 2}, GOES_ON),
    "logprob_token_ids": ({"logprob_token_ids": [5]}, GOES_ON),
    "flat_logprobs": ({"flat_logprobs": True}, GOES_ON),
    "detokenize": ({"detokenize": False}, GOES_ON),
    "skip_special_tokens": ({"skip_special_tokens": False}, GOES_ON),
    "spaces_between_special_tokens": ({"spaces_between_special_tokens": False}, GOES_ON),
    "include_stop_str_in_output": ({"include_stop_str_in_output": True}, GOES_ON),
    "output_kind": ({"output_kind": RequestOutputKind.DELTA}, GOES_ON),
    "stream_interval": ({"stream_interval": 4}, GOES_ON),
    "skip_clone": ({"skip_clone": True}, GOES_ON),
    "structured_outputs": ({"structured_outputs": StructuredOutputsParams(json={"type": "object"})}, GOES_ON),
    "logit_bias": ({"logit_bias": {5: 1.0}}, GOES_ON),
    "allowed_token_ids": ({"allowed_token_ids": [5, 6]}, GOES_ON),
    "extra_args": ({"extra_args": {"custom": 1}}, GOES_ON),  # custom logits processors are handed the output so far
    "bad_words": ({"bad_words": ["two words"]}, GOES_ON),
    "skip_reading_prefix_cache": ({"skip_reading_prefix_cache": True}, GOES_ON),
    "thinking_token_budget": ({"thinking_token_budget": 100}, HOLDS),
    "repetition_detection": (
        {"repetition_detection": RepetitionDetectionParams(max_pattern_size=3, min_pattern_size=2, min_count=2)},
        GOES_ON,
    ),
    "routed_experts_prompt_start": ({"routed_experts_prompt_start": 3}, GOES_ON),
    "trace_decode_token_ids": ({"trace_decode_token_ids": [5, 6]}, GOES_ON),
    # Values that say nothing.
    "nothing": ({}, GOES_ON),
    "max_tokens two": ({"max_tokens": 2}, GOES_ON),
    "no max_tokens": ({"max_tokens": None}, GOES_ON),
    "extra_args empty": ({"extra_args": {}}, GOES_ON),
    "bad_words empty": ({"bad_words": []}, GOES_ON),
    "max_tokens before all others": ({"max_tokens": 1, "seed": 1}, WHOLE),
}
DERIVED = {"output_text_buffer_length"}
"""Set by vLLM from the others."""


def of(**sampling: Any) -> Traits:
    request = ask("r", [1, 2, 3], 8)
    request.sampling_params = SamplingParams(**{"temperature": 0.0, "max_tokens": 8, "ignore_eos": True, **sampling})
    return traits(request)


@pytest.mark.parametrize(("sampling", "wanted"), TABLE.values(), ids=TABLE.keys())
def test_sampling_decides(sampling: dict[str, Any], wanted: tuple[bool, bool]) -> None:
    """Splittable, and continuable. The first token counts where others can go on behind it."""
    how = of(**sampling)
    assert (how.splittable, how.continuable) == wanted
    assert how.first_token_counts is how.continuable
    assert how.reason


def test_the_table_knows_every_parameter() -> None:
    """A parameter new in vLLM must be looked at before it is split."""
    public = {name for name in SamplingParams.__struct_fields__ if not name.startswith("_")}
    assert public - DERIVED - TABLE.keys() == set()


@pytest.mark.parametrize("name", [name for name, (_, wanted) in TABLE.items() if wanted == HOLDS])
def test_the_reason_names_the_parameter(name: str) -> None:
    """An operator sees why a request's first token waited for the transfer."""
    assert name in of(**TABLE[name][0]).reason


def test_only_prompts_of_tokens_are_split() -> None:
    """Pooling requests and embeddings are done where they go; behind embeddings, too, another worker can go on."""
    pooling, embeddings, mixed = ask("a", [1], 8), ask("b", [1], 8), ask("c", [1], 8)
    pooling.sampling_params, pooling.pooling_params = None, PoolingParams()
    embeddings.prompt_token_ids = None
    mixed.prompt_embeds = torch.zeros(1, 2)
    how = [traits(request) for request in (pooling, embeddings, mixed)]
    assert [(one.splittable, one.continuable) for one in how] == [WHOLE] * 3
