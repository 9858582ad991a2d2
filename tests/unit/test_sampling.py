"""The legs' sampling parameters: together they are the one request, and the original is never touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from engine.sampling import TRANSFER_KEY, continued_sample, discarded_sample, first_token_sample, with_transfer, without_transfer

RICH: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "seed": 11,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.2,
    "repetition_penalty": 1.3,
    "max_tokens": 50,
    "min_tokens": 5,
    "logprobs": 4,
    "prompt_logprobs": 2,
    "stop_token_ids": [7, 8],
    "logit_bias": {3: 1.5},
    "allowed_token_ids": [1, 2, 3],
    "bad_words": ["x"],
    "structured_outputs": StructuredOutputsParams(regex="a+"),
    "extra_args": {"custom": [1, 2]},
    "trace_decode_token_ids": None,
}


def rich(**changes: Any) -> SamplingParams:
    return SamplingParams(**{**RICH, **changes})


def fields(sampling: SamplingParams) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in sampling.__struct_fields__}


def changed(before: SamplingParams, now: SamplingParams) -> dict[str, Any]:
    """The fields in which the two differ, as they are now."""
    return {name: value for name, value in fields(now).items() if getattr(before, name) != value}


LEGS: dict[str, tuple[Callable[[SamplingParams], SamplingParams], dict[str, Any]]] = {
    "prefill, token counts": (first_token_sample, {"max_tokens": 1, "min_tokens": 1}),
    "prefill, token thrown away": (
        discarded_sample,
        {
            "max_tokens": 1,
            "min_tokens": 0,
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "seed": None,
            "logprobs": None,
            "structured_outputs": None,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
        },
    ),
    "decode behind one token": (
        lambda sampling: continued_sample(sampling, 1),
        {"max_tokens": 49, "min_tokens": 4, "prompt_logprobs": None, "skip_reading_prefix_cache": False},
    ),
    "decode from the first token": (
        lambda sampling: continued_sample(sampling, 0),
        {"prompt_logprobs": None, "skip_reading_prefix_cache": False},
    ),
    "with a transfer": (
        lambda sampling: with_transfer(sampling, {"a": 1}),
        {"extra_args": {"custom": [1, 2], TRANSFER_KEY: {"a": 1}}},
    ),
}


@pytest.mark.parametrize("skip_clone", [False, True], ids=["deep", "shallow"])
@pytest.mark.parametrize(("leg", "wanted"), LEGS.values(), ids=LEGS.keys())
def test_each_leg_changes_only_what_it_must(
    leg: Callable[[SamplingParams], SamplingParams], wanted: dict[str, Any], skip_clone: bool
) -> None:
    """All else is as the client asked; the client's own parameters stay as they were, also where vLLM's clone is shallow."""
    original = rich(skip_clone=skip_clone)
    before = msgspec.json.encode({name: repr(value) for name, value in fields(original).items()})
    made = leg(original)
    assert changed(original, made) == wanted
    assert msgspec.json.encode({name: repr(value) for name, value in fields(original).items()}) == before


@pytest.mark.parametrize(
    ("asked", "emitted", "left"),
    [
        ((10, 0), 0, (10, 0)),
        ((10, 0), 1, (9, 0)),
        ((10, 3), 1, (9, 2)),
        ((10, 3), 3, (7, 0)),
        ((10, 3), 8, (2, 0)),
        ((10, 10), 9, (1, 1)),
        ((None, 0), 5, (None, 0)),
    ],
)
def test_limits_count_what_is_out(asked: tuple[int | None, int], emitted: int, left: tuple[int | None, int]) -> None:
    """(max_tokens, min_tokens) of the whole request, the tokens the client has, what the decode leg is given."""
    made = continued_sample(SamplingParams(max_tokens=asked[0], min_tokens=asked[1]), emitted)
    assert (made.max_tokens, made.min_tokens) == left


@pytest.mark.parametrize("asks", [{"prompt_logprobs": 0}, {"prompt_logprobs": 5}, {"prompt_logprob_token_ids": [[1]]}])
def test_prompt_logprobs_are_asked_once(asks: dict[str, Any]) -> None:
    """Prefill tells them. Asked of decode, they would make vLLM compute the whole prompt again, past every pulled block."""
    original = SamplingParams(max_tokens=8, **asks)
    assert original.skip_reading_prefix_cache is True
    for prefill in (first_token_sample(original), discarded_sample(original)):
        assert (prefill.prompt_logprobs, prefill.prompt_logprob_token_ids) == (original.prompt_logprobs, original.prompt_logprob_token_ids)
    decode = continued_sample(original, 1)
    assert (decode.prompt_logprobs, decode.prompt_logprob_token_ids, decode.skip_reading_prefix_cache) == (None, None, False)


def test_a_client_that_wants_no_cache_gets_none() -> None:
    """Its wish is not undone where no prompt logprobs are the reason."""
    assert continued_sample(SamplingParams(skip_reading_prefix_cache=True), 1).skip_reading_prefix_cache is True


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (None, None),
        ({}, {}),
        ({"custom": 1}, {"custom": 1}),
        ({TRANSFER_KEY: {"do_remote_decode": True}}, None),
        ({TRANSFER_KEY: None, "custom": 1}, {"custom": 1}),
    ],
)
def test_clients_cannot_name_blocks(given: dict[str, Any] | None, left: dict[str, Any] | None) -> None:
    """What a request says about KV transfer is taken off; the rest of its extra arguments stays."""
    original = SamplingParams(extra_args=given)
    assert without_transfer(original).extra_args == left
    assert original.extra_args == given


def test_a_transfer_is_copied() -> None:
    """A handle may be sent twice; an engine that changes its parameters must not change the handle's."""
    transfer = {"remote_port": 1}
    made = with_transfer(SamplingParams(), transfer)
    assert made.extra_args is not None
    made.extra_args[TRANSFER_KEY]["remote_port"] = 2
    assert transfer == {"remote_port": 1}
