"""The legs' sampling parameters: together they are the one request, and the original is never touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from engine.sampling import (
    EMITTED_KEY,
    TRANSFER_KEY,
    continued,
    discarded,
    emitted_tokens,
    one_more,
    with_transfer,
    without_prompt_logprobs,
    without_transfer,
)

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
    "prefill, token counts": (lambda sampling: one_more(sampling, 0), {"max_tokens": 1, "min_tokens": 1}),
    "prefill behind three": (lambda sampling: one_more(sampling, 3), {"max_tokens": 4, "min_tokens": 4}),
    "prefill behind many": (lambda sampling: one_more(sampling, 30), {"max_tokens": 31}),
    "prefill, token thrown away": (
        lambda sampling: discarded(sampling, 0),
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
    "from the start": (lambda sampling: continued(sampling, []), {}),
    "behind two tokens": (
        lambda sampling: continued(sampling, [8, 9]),
        {
            "extra_args": {"custom": [1, 2], TRANSFER_KEY: {EMITTED_KEY: [8, 9]}},
            "prompt_logprobs": None,
            "skip_reading_prefix_cache": False,
        },
    ),
    "behind a token, with a transfer": (
        lambda sampling: continued(sampling, [8], {"a": 1}),
        {
            "extra_args": {"custom": [1, 2], TRANSFER_KEY: {"a": 1, EMITTED_KEY: [8]}},
            "prompt_logprobs": None,
            "skip_reading_prefix_cache": False,
        },
    ),
    "from the start, with a transfer": (
        lambda sampling: continued(sampling, [], {"a": 1}),
        {"extra_args": {"custom": [1, 2], TRANSFER_KEY: {"a": 1}}},
    ),
    "prompt told": (without_prompt_logprobs, {"prompt_logprobs": None, "skip_reading_prefix_cache": False}),
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


@pytest.mark.parametrize("limits", [(10, 0), (10, 3), (10, 10), (None, 0)])
@pytest.mark.parametrize("emitted", [1, 3, 9])
def test_limits_stay_those_of_the_whole_output(limits: tuple[int | None, int], emitted: int) -> None:
    """The engine counts what is out: there is nothing to take off."""
    made = continued(SamplingParams(max_tokens=limits[0], min_tokens=limits[1]), [5] * emitted)
    assert (made.max_tokens, made.min_tokens) == limits
    assert emitted_tokens(made) == [5] * emitted


@pytest.mark.parametrize("min_tokens", range(12))
@pytest.mark.parametrize("emitted", [0, 1, 4, 10])
def test_prefill_s_token_minds_min_tokens(min_tokens: int, emitted: int) -> None:
    """It may end the answer exactly where the whole request's would, and the engine accepts the parameters."""
    made = one_more(SamplingParams(max_tokens=20, min_tokens=min_tokens), emitted)
    assert (emitted < made.min_tokens) == (emitted < min_tokens)
    made._verify_args()


@pytest.mark.parametrize(
    "sampling", [None, SamplingParams(), SamplingParams(extra_args={TRANSFER_KEY: None}), with_transfer(SamplingParams(), {})]
)
def test_mostly_nothing_is_emitted(sampling: SamplingParams | None) -> None:
    """Requests from their start, and pooling ones."""
    assert emitted_tokens(sampling) == []


@pytest.mark.parametrize("asks", [{"prompt_logprobs": 0}, {"prompt_logprobs": 5}, {"prompt_logprob_token_ids": [[1]]}])
def test_prompt_logprobs_are_asked_once(asks: dict[str, Any]) -> None:
    """Prefill tells them. Asked of decode, they would make vLLM compute the whole prompt again, past every pulled block."""
    original = SamplingParams(max_tokens=8, **asks)
    assert original.skip_reading_prefix_cache is True
    for prefill in (one_more(original, 0), discarded(original, 0)):
        assert (prefill.prompt_logprobs, prefill.prompt_logprob_token_ids) == (original.prompt_logprobs, original.prompt_logprob_token_ids)
    for later in (without_prompt_logprobs(original), continued(original, [5]), continued(one_more(original, 1), [5], {"keep": True})):
        assert (later.prompt_logprobs, later.prompt_logprob_token_ids, later.skip_reading_prefix_cache) == (None, None, False)


def test_a_client_that_wants_no_cache_gets_none() -> None:
    """Its wish is not undone where no prompt logprobs are the reason."""
    assert continued(SamplingParams(skip_reading_prefix_cache=True), [5]).skip_reading_prefix_cache is True


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (None, None),
        ({}, {}),
        ({"custom": 1}, {"custom": 1}),
        ({TRANSFER_KEY: {"do_remote_decode": True}}, None),
        ({TRANSFER_KEY: {EMITTED_KEY: [1, 2]}}, None),
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
