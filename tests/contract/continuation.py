"""What an answer cut anywhere and gone on with on another real engine must be: token for token the answer left alone.

One entry per sampling feature. ``tests/contract/test_vllm_engine_contract.py`` runs them on its pair of engines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from vllm.sampling_params import RepetitionDetectionParams, SamplingParams, StructuredOutputsParams
from vllm.tokenizers import get_tokenizer
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
from vllm.v1.structured_output.utils import choice_as_grammar

from deploy.demo_model import ensure_demo_model
from tests.contract.engine_contract import MakeEngine, Running, ask, behind, prompt_of

PROMPT = prompt_of(100, 31)
TOKENS = 36
CUTS = (1, 2, 13, 27, 28, 29, 35)
"""With a block size of 128: one token, the last, and one before, at and behind the end of a block."""

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "ages": {"type": "array", "items": {"type": "integer"}, "minItems": 3}},
    "required": ["name", "ages"],
    "additionalProperties": False,
}
CHOICES = ["a long way from here to there and back again", "a long way from here to the end of the road"]


def structured(**form: Any) -> StructuredOutputsParams:
    params = StructuredOutputsParams(**form)
    params._backend = "xgrammar"  # what vLLM's input processor settles on
    return params


WARM = {"temperature": 1.0, "seed": 7}
FEW = {"logit_bias": {30: 40.0, 31: 39.5, 32: 39.0}}
"""Leaves so little choice that a penalty decides."""
FEATURES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seed": WARM,
    "seed, cooler": {"temperature": 0.6, "seed": 2**40 + 1},
    "seed and top_k": {**WARM, "top_k": 20},
    "seed and top_p": {**WARM, "top_p": 0.8},
    "seed and min_p": {**WARM, "min_p": 0.02},
    "seed, top_k and top_p": {**WARM, "top_k": 50, "top_p": 0.9},
    "presence_penalty": {**FEW, "presence_penalty": 1.5},
    "presence_penalty and seed": {**WARM, "presence_penalty": 1.5},
    "frequency_penalty": {**FEW, "frequency_penalty": 1.2},
    "frequency_penalty and seed": {**WARM, "frequency_penalty": 1.2},
    "repetition_penalty": {**FEW, "repetition_penalty": 1.6},
    "repetition_penalty and seed": {**WARM, "repetition_penalty": 1.6},
    "json": {**WARM, "structured_outputs": structured(json=SCHEMA)},
    "json, greedy": {"structured_outputs": structured(json=SCHEMA)},
    "regex": {**WARM, "structured_outputs": structured(regex=r"([a-f][0-9]{3}-){8}[xyz]+")},
    "choice": {**WARM, "structured_outputs": structured(grammar=choice_as_grammar(CHOICES))},  # as the front half makes it
    "logprobs": {"logprobs": 3},
    "logprobs and seed": {**WARM, "logprobs": 3, "presence_penalty": 0.5},
    "logprob_token_ids": {"logprob_token_ids": [20, 21]},
    "ignore_eos": {**WARM, "ignore_eos": True},
    "logit_bias": {**WARM, "logit_bias": {30: 5.0, 31: 4.0}},
    "allowed_token_ids": {**WARM, "allowed_token_ids": list(range(40, 60))},
    "prompt_logprobs": {"prompt_logprobs": 2},
    "custom argument": {**WARM, "extra_args": {"custom": 1}},
    "everything": {
        **WARM, "top_k": 60, "top_p": 0.95, "presence_penalty": 0.7, "frequency_penalty": 0.3, "repetition_penalty": 1.2, "logprobs": 1,
        "logit_bias": {30: 2.0}, "min_tokens": 20,
    },
}  # fmt: skip
"""All that does not need the tokens of another run to be written down."""

LOOKING_BACK: dict[str, Callable[[list[int]], dict[str, Any]]] = {
    "stop_token_ids": lambda plain: {"stop_token_ids": [plain[30]]},
    "min_tokens": lambda plain: {"stop_token_ids": plain[3:30:4], "min_tokens": 29},
    "bad_words": lambda plain: {"_bad_words_token_ids": [plain[at : at + 2] for at in (4, 14, 28)] + [plain[20:23]]},
    "repetition_detection": lambda plain: {
        "logit_bias": {plain[5]: 60.0, plain[9]: 60.0},
        "repetition_detection": RepetitionDetectionParams(max_pattern_size=2, min_pattern_size=1, min_count=8),
    },
}
"""Those that do: told a seeded run's tokens, they interfere with them."""


def of(leg: str, transfer: dict[str, Any] | None, sampling: dict[str, Any], tokens: int = TOKENS) -> EngineCoreRequest:
    """A request as vLLM's front half would have made it."""
    given = {name: value for name, value in sampling.items() if name not in {"_bad_words_token_ids", "extra_args"}}
    request = ask(leg, PROMPT, tokens)
    request.cache_salt = leg  # finds no block of another leg: as good as an engine that has seen none
    extra = {**sampling.get("extra_args", {}), **({"kv_transfer_params": transfer} if transfer else {})}
    request.sampling_params = SamplingParams(
        **{"temperature": 0.0, "ignore_eos": False, "max_tokens": tokens, "extra_args": extra, **given}
    )
    request.sampling_params._bad_words_token_ids = sampling.get("_bad_words_token_ids")
    eos = get_tokenizer(str(ensure_demo_model())).eos_token_id
    request.sampling_params.update_from_generation_config({}, eos)
    return request


def ending(outputs: Sequence[EngineCoreOutput]) -> tuple[Any, ...]:
    return outputs[-1].finish_reason, outputs[-1].stop_reason


async def check_cuts(make_engine: MakeEngine, sampling: dict[str, Any], cuts: Sequence[int] = CUTS) -> list[int]:
    """Runs whole on one engine, cut at each of ``cuts`` on the other. Returns the whole output."""
    engine, other = await make_engine(), await make_engine()
    whole = await engine.run(of("whole:0", None, sampling))
    after = {name: value for name, value in sampling.items() if name != "prompt_logprobs"}
    for cut in [cut for cut in cuts if cut < len(whole)]:
        leg = f"cut-{cut}:0"
        assert await other.run(of(leg, behind(whole[:cut]), after)) == whole[cut:], f"cut at {cut} of {whole}"
        assert ending(other.outputs[leg]) == ending(engine.outputs["whole:0"])
        for mine, undisturbed in zip(other.outputs[leg], engine.outputs["whole:0"][cut:], strict=True):
            if undisturbed.new_logprobs is None:
                assert mine.new_logprobs is None
                continue
            assert mine.new_logprobs is not None
            np.testing.assert_array_equal(mine.new_logprobs.logprob_token_ids, undisturbed.new_logprobs.logprob_token_ids)
            np.testing.assert_allclose(mine.new_logprobs.logprobs, undisturbed.new_logprobs.logprobs, atol=1e-4)
    return whole


class Continuation:
    """The suite, for engines with the demo model and a block size of 128."""

    @pytest.mark.parametrize("sampling", FEATURES.values(), ids=FEATURES.keys())
    async def test_an_answer_cut_anywhere(self, make_engine: MakeEngine, sampling: dict[str, Any]) -> None:
        """Goes on to the same end."""
        assert len(await check_cuts(make_engine, sampling)) > 8

    @pytest.mark.parametrize("interfere", LOOKING_BACK.values(), ids=LOOKING_BACK.keys())
    async def test_what_depends_on_the_output(self, make_engine: MakeEngine, interfere: Callable[[list[int]], dict[str, Any]]) -> None:
        """Conditions on the output so far see the part that was made elsewhere."""
        engine = await make_engine()
        plain = await engine.run(of("plain:0", None, WARM))
        await make_engine()
        whole = await check_cuts(make_engine, {**WARM, **interfere(plain)}, range(1, TOKENS, 3))
        assert whole != plain

    @pytest.mark.parametrize("name", ["greedy", "everything", "json", "repetition_penalty and seed"])
    @pytest.mark.parametrize("cut", [1, 27, 28, 29, 30])
    async def test_an_answer_split_again(self, make_engine: MakeEngine, name: str, cut: int) -> None:
        """Prefill behind emitted tokens on one engine, decode on the other by a pull."""
        prefill, decode = await make_engine(), await make_engine()
        sampling = FEATURES[name]
        whole = await decode.run(of("whole:0", None, sampling))
        keep = {"do_remote_decode": True, "do_remote_prefill": False}
        once = {**sampling, "min_tokens": min(sampling.get("min_tokens", 0), cut + 1)}
        assert await prefill.run(of("a:0", behind(whole[:cut], keep), once, cut + 1)) == [whole[cut]]
        handle = prefill.outputs["a:0"][-1].kv_transfer_params
        assert handle is not None
        assert await decode.run(of("a:1", behind(whole[: cut + 1], handle), sampling)) == whole[cut + 1 :]
        stats = decode.outputs["a:1"][0].prefill_stats
        assert stats is not None
        assert stats.num_external_cached_tokens == len(PROMPT) + cut

    async def test_seeds_are_each_request_s_own(self, make_engine: MakeEngine) -> None:
        """Answers that go on in one batch, beside others, are what each was alone."""
        engine, other = await make_engine(), await make_engine()
        samplings = [{"temperature": 1.0, "seed": seed, "presence_penalty": seed / 4} for seed in range(6)]
        wholes = [await engine.run(of(f"{n}:0", None, sampling)) for n, sampling in enumerate(samplings)]
        rest = [other.run(of(f"{n}:1", behind(wholes[n][: 5 * n]), sampling)) for n, sampling in enumerate(samplings)]
        assert await asyncio.gather(*rest) == [whole[5 * n :] for n, whole in enumerate(wholes)]

    async def test_a_prompt_in_chunks_with_a_seed(self, make_engine: MakeEngine) -> None:
        """Tokens sampled after a part of a prompt are thrown away, and with them the number drawn for each."""
        engine, other = await make_engine(), await make_engine()
        length = min(engine.facts.max_num_batched_tokens, engine.facts.max_model_len) - TOKENS - 1

        async def third(running: Running, leg: str, emitted: list[int]) -> list[int]:
            """Behind two other prompts that fill a step each: one of the two it has to share with."""
            for number in (1, 2):
                await running.engine.add(ask(f"{leg}-{number}", prompt_of(length, 32 + number), 1))
            request = of(leg, behind(emitted), WARM)
            request.prompt_token_ids = prompt_of(length, 32)
            return await running.run(request)

        whole = await third(engine, "whole:0", [])
        assert await third(other, "cut:0", whole[:9]) == whole[9:]
