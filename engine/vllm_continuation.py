"""Output tokens that another engine has made already, taken in by a vLLM engine as its own: as after a preemption.

vLLM goes on exactly after a preemption because a request's prompt and output stay apart. A request that arrives with emitted
tokens (``engine.sampling.emitted_tokens``) is put into that state at the four places that hold any:

1. *Scheduler*: the tokens become the request's output, so lengths, stop conditions and block hashes count them as such.
2. *Grammar* of a structured output: it accepts the tokens one by one, reasoning parser and all, before it is first used.
3. *V1 model runner* (CPU, and GPU where vLLM falls back to it): its copy of the output, for penalties, bad words, min_tokens.
4. *Its random stream* per seed: one draw per token made. The V2 runner needs neither: it is given all tokens, and its streams
   go by position.

Whatever vLLM itself cannot take up again after a preemption cannot be continued exactly: ``router.traits`` knows it.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from vllm.platforms import CpuArchEnum, current_platform
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.worker import gpu_model_runner
from vllm.v1.worker.gpu_input_batch import CachedRequestState

from engine.sampling import emitted_tokens

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.request import Request
    from vllm.v1.structured_output.backend_types import StructuredOutputGrammar


def install(vllm_config: VllmConfig) -> None:
    """Makes this process take in emitted tokens from now on, if it does not yet. Affects only requests that have any.

    Called in every process of an engine before its first request; scheduler and model runner may share one.
    """
    Draws.vocab_size = vllm_config.model_config.get_vocab_size()
    Draws.noise = torch.float64 if vllm_config.model_config.use_fp64_gumbel else torch.float32
    gpu_model_runner.CachedRequestState = ContinuedRequestState
    create = StructuredOutputManager._create_grammar
    if getattr(create, "continues", False):
        return

    def create_continued(manager: StructuredOutputManager, request: Request) -> StructuredOutputGrammar:
        grammar = create(manager, request)
        _advance(manager, request, grammar)
        return grammar

    create_continued.continues = True  # type: ignore[attr-defined]
    StructuredOutputManager._create_grammar = create_continued


# -- scheduler ---------------------------------------------------------------------------------------------------------


class ContinuedPrefillStats(PrefillStats):
    """Where the KV of prompt *and* emitted tokens came from; set by ``count_prefill``, not by the scheduler.

    False, so that the scheduler leaves it alone: it would insist that no token behind the prompt has been computed elsewhere.
    """

    def __bool__(self) -> bool:
        return False


def continue_request(request: Request) -> None:
    """Makes the emitted tokens of a request that was just queued its output."""
    emitted = emitted_tokens(request.sampling_params)
    if emitted:
        request.append_output_token_ids(emitted)
        request.prefill_stats = ContinuedPrefillStats()


def count_prefill(request: Request, local_tokens: int, external_tokens: int) -> None:
    """Notes what a continued request finds in this engine's cache and elsewhere. Others are the scheduler's to count."""
    stats = request.prefill_stats
    if isinstance(stats, ContinuedPrefillStats) and not request.num_preemptions:
        external = 0 if request.skip_reading_prefix_cache else external_tokens
        stats.set(request.num_tokens, local_tokens, external)


def _advance(manager: StructuredOutputManager, request: Request, grammar: StructuredOutputGrammar) -> None:
    """Has a new grammar accept a request's emitted tokens. Raises ValueError, which fails the request, if it would not.

    vLLM's own ``accept_tokens`` decides where reasoning ends and the grammar begins. It is shown a request that grows token
    by token, with a grammar that the real request gets only when this returns.
    """
    emitted = emitted_tokens(request.sampling_params)
    if not emitted:
        return
    structured = copy.copy(request.structured_output_request)
    assert structured is not None
    structured.grammar = grammar
    grown = SimpleNamespace(
        request_id=request.request_id,
        use_structured_output=True,
        structured_output_request=structured,
        prompt_token_ids=request.prompt_token_ids,
        all_token_ids=list(request.prompt_token_ids or ()),
    )
    for token in emitted:
        grown.all_token_ids.append(token)
        if not manager.accept_tokens(grown, [token]):
            raise ValueError(f"the grammar of {request.request_id} rejects token {token}, which was made under it elsewhere")
    assert request.structured_output_request is not None
    request.structured_output_request.reasoning_ended = structured.reasoning_ended
    request.structured_output_request.reasoner = structured.reasoner


# -- V1 model runner ---------------------------------------------------------------------------------------------------


class Draws:
    """What vLLM's V1 sampler draws from a request's own generator for one token (``TopKTopPSampler``)."""

    vocab_size = 0
    noise = torch.float32

    @classmethod
    def make(cls, generator: torch.Generator, tokens: int) -> None:
        """Draws for so many tokens."""
        if cls._is_fused():
            torch.randint(0, 2**31, (tokens,), generator=generator, dtype=torch.long)
            return
        row = torch.empty(cls.vocab_size, dtype=cls.noise, device=generator.device)
        for _ in range(tokens):
            row.exponential_(generator=generator)

    @classmethod
    def _is_fused(cls) -> bool:
        """Whether the sampler is the CPU's own, which draws one number per token; every other one draws a row of noise."""
        if not current_platform.is_cpu() or cls.noise is not torch.float32:
            return False
        return current_platform.get_cpu_architecture() not in (CpuArchEnum.RISCV, CpuArchEnum.POWERPC)


class ContinuedRequestState(CachedRequestState):
    """The V1 model runner's state of a request, with the output that was made elsewhere."""

    output_token_ids: list[int]
    generator: torch.Generator | None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.output_token_ids = [*emitted_tokens(self.sampling_params), *self.output_token_ids]
        if self.generator is None:
            return
        if self.generator.device.type == "cpu":
            self.generator = RewindableGenerator.of(self)
        Draws.make(self.generator, len(self.output_token_ids))


class RewindableGenerator(torch.Generator):
    """A CPU generator that can take back its last draw.

    The V1 model runner samples after every chunk of a long prompt, throws the token away and turns the generator back by its
    offset. CPU generators have none: without this a seeded request whose prompt is computed in chunks ends the engine.
    """

    state: Any

    @classmethod
    def of(cls, state: CachedRequestState) -> RewindableGenerator:
        assert state.generator is not None
        made = cls("cpu")
        made.manual_seed(state.generator.initial_seed())
        made.state = state
        return made

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> None:
        """To before the draw that made no token: as many draws as there are output tokens."""
        self.manual_seed(self.initial_seed())
        Draws.make(self, len(self.state.output_token_ids))
