"""The pieces that put emitted tokens into vLLM's state, each beside what vLLM does by itself. No engine is started."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.worker import gpu_model_runner
from vllm.v1.worker.gpu_input_batch import CachedRequestState

from engine import vllm_continuation
from engine.sampling import continued, emitted_tokens
from engine.vllm_continuation import ContinuedRequestState, Draws, RewindableGenerator, continue_request, count_prefill

END = 99
"""Ends the reasoning of the tests' parser."""


def state(emitted: Sequence[int], seed: int | None = 5) -> CachedRequestState:
    """As the V1 model runner makes it for a new request."""
    generator = torch.Generator("cpu").manual_seed(seed) if seed is not None else None
    return ContinuedRequestState("a", [1, 2, 3], [], continued(SamplingParams(seed=seed), emitted), generator, ([],), 0, [])


def request(emitted: Sequence[int], **sampling: Any) -> Request:
    return Request("a", [1, 2, 3], continued(SamplingParams(max_tokens=9, **sampling), emitted), None)


def drawn(generator: torch.Generator, sampler: TopKTopPSampler, tokens: int) -> torch.Tensor:
    """The state of a generator that vLLM's sampler has drawn from for so many tokens."""
    for _ in range(tokens):
        sampler.forward(torch.zeros(1, 50), {0: generator}, None, None)
    return generator.get_state()


@pytest.mark.parametrize("fp64", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 7, 40])
def test_draws_are_the_sampler_s(monkeypatch: pytest.MonkeyPatch, tokens: int, fp64: bool) -> None:
    """After so many draws a generator is where vLLM's own sampler would have left it."""
    monkeypatch.setattr(Draws, "vocab_size", 50)
    monkeypatch.setattr(Draws, "noise", torch.float64 if fp64 else torch.float32)
    mine, theirs = torch.Generator("cpu").manual_seed(3), torch.Generator("cpu").manual_seed(3)
    Draws.make(mine, tokens)
    assert torch.equal(mine.get_state(), drawn(theirs, TopKTopPSampler(use_fp64_gumbel=fp64), tokens))


def test_a_state_begins_with_what_is_out() -> None:
    """Its output and its generator are those of a run that made the tokens itself; a list of its own, as the runner extends it."""
    made = state([7, 8, 9])
    assert (made.output_token_ids, made.num_tokens, made.num_prompt_tokens) == ([7, 8, 9], 6, 3)
    assert made.generator is not None
    assert torch.equal(made.generator.get_state(), drawn(torch.Generator("cpu").manual_seed(5), TopKTopPSampler(), 3))
    made.output_token_ids.append(1)
    assert emitted_tokens(made.sampling_params) == [7, 8, 9]
    assert state([], seed=None).generator is None


@pytest.mark.parametrize("emitted", [[], [7, 8]])
def test_a_generator_takes_its_last_draw_back(emitted: list[int]) -> None:
    """As the runner asks after a part of a prompt, whether or not tokens were made since the start."""
    made = state(emitted)
    assert isinstance(made.generator, RewindableGenerator)
    for _ in range(2):
        before = made.generator.get_state()
        drawn(made.generator, TopKTopPSampler(), 1)
        made.generator.set_offset(made.generator.get_offset() - 4)
        assert torch.equal(made.generator.get_state(), before)
        drawn(made.generator, TopKTopPSampler(), 1)
        made.output_token_ids.append(6)


def test_a_request_has_made_what_is_out() -> None:
    """The scheduler's request: prompt and limits as they were; without emitted tokens nothing changes."""
    made = request([7, 8])
    continue_request(made)
    assert list(made.output_token_ids) == [7, 8]
    assert list(made.all_token_ids) == [1, 2, 3, 7, 8]
    assert (made.num_prompt_tokens, made.num_output_tokens, made.max_tokens) == (3, 2, 9)
    assert made.prefill_stats is not None
    assert not made.prefill_stats, "or the scheduler would insist on its own count"
    count_prefill(made, 2, 3)
    stats = made.take_prefill_stats()
    assert stats is not None
    assert (stats.num_prompt_tokens, stats.num_local_cached_tokens, stats.num_external_cached_tokens) == (5, 2, 3)
    plain = request([])
    continue_request(plain)
    count_prefill(plain, 1, 0)
    assert plain.prefill_stats
    assert (plain.num_output_tokens, plain.prefill_stats.num_prompt_tokens) == (0, 0)


class Reasoner:
    """A reasoning parser that knows one token."""

    def __init__(self, tokenizer: Any) -> None: ...

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        return END in input_ids

    def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Sequence[int]) -> bool:
        assert list(input_ids)[-len(delta_ids) :] == list(delta_ids)
        return END in delta_ids


class Grammar:
    """Accepts what is below 50 and remembers it."""

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        self.accepted += tokens
        return all(token < 50 for token in tokens)


def manager(*, reasons: bool) -> Any:
    made = StructuredOutputManager.__new__(StructuredOutputManager)
    made.enable_in_reasoning, made.tokenizer = False, None
    made.reasoner_cls = Reasoner if reasons else None
    return made


@pytest.mark.parametrize("reasons", [False, True])
@pytest.mark.parametrize("emitted", [[], [5], [60, 61], [60, END], [60, END, 5, 6], [5, 6, 7]])
def test_a_grammar_is_where_the_undisturbed_one_is(reasons: bool, emitted: list[int]) -> None:
    """vLLM's own walk, step by step, over a request that makes the tokens itself, against the walk over emitted ones."""
    form = StructuredOutputsParams(regex=".*")
    alone, went_on = request([], structured_outputs=form), request(emitted, structured_outputs=form)
    theirs, mine, walked = Grammar(), Grammar(), manager(reasons=reasons)
    assert alone.structured_output_request is not None
    assert went_on.structured_output_request is not None
    alone.structured_output_request.grammar = theirs
    broken = False
    for token in emitted:
        alone.append_output_token_ids(token)
        broken = broken or not walked.accept_tokens(alone, [token])
    if broken:
        with pytest.raises(ValueError, match="rejects token"):
            vllm_continuation._advance(manager(reasons=reasons), went_on, mine)
        return
    vllm_continuation._advance(manager(reasons=reasons), went_on, mine)
    assert mine.accepted == theirs.accepted
    assert went_on.structured_output_request.reasoning_ended == alone.structured_output_request.reasoning_ended
    assert went_on.structured_output_request.grammar is None, "only the manager hands it out"


def test_installing_twice_is_installing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scheduler and worker of one process both do."""
    monkeypatch.setattr(gpu_model_runner, "CachedRequestState", CachedRequestState)
    monkeypatch.setattr(StructuredOutputManager, "_create_grammar", lambda manager, request: "grammar")
    config: Any = SimpleNamespace(model_config=SimpleNamespace(get_vocab_size=lambda: 50, use_fp64_gumbel=False))
    vllm_continuation.install(config)
    once = StructuredOutputManager._create_grammar
    vllm_continuation.install(config)
    assert StructuredOutputManager._create_grammar is once
    assert gpu_model_runner.CachedRequestState is ContinuedRequestState


def test_where_vllm_is_held() -> None:
    """What ``engine.vllm_continuation`` replaces or relies on is called where it was when this was written."""
    update = inspect.getsource(gpu_model_runner.GPUModelRunner._update_states)
    assert "req_state = CachedRequestState(" in update
    assert "output_token_ids=[]," in update
    assert "generator.manual_seed(sampling_params.seed)" in update
    assert "gen.set_offset(gen.get_offset() - 4)" in inspect.getsource(gpu_model_runner)
    assert "self._create_grammar" in inspect.getsource(StructuredOutputManager.grammar_init)
    assert list(inspect.signature(StructuredOutputManager._create_grammar).parameters) == ["self", "request"]
    assert list(inspect.signature(StructuredOutputManager.accept_tokens).parameters) == ["self", "request", "new_token_ids"]
    assert "self.connector.on_new_request(request)" in inspect.getsource(Scheduler.add_request)
    schedule = inspect.getsource(Scheduler.schedule)
    assert "if request.prefill_stats and request.num_preemptions <= 0:" in schedule
    assert schedule.index("self.connector.get_num_new_matched_tokens(") < schedule.index("if request.prefill_stats and ")
    # The V2 runner needs no help as long as it is given all tokens beside the prompt's length.
    assert "req._all_token_ids," in schedule
    assert {"prefill_token_ids", "prompt_token_ids"} <= set(NewRequestData.__dataclass_fields__)
