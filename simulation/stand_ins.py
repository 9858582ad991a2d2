"""What stands in for vLLM's requests and outputs: lengths instead of tokens, and nothing encoded on the way.

They have the attributes that routers read, and no others: a router that reads one more fails at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from engine.vllm_codec import OutputsCodec, RequestCodec
from simulation.traces import TraceRequest


class Tokens(Sequence[int]):
    """So many tokens, all alike: nobody in a simulation looks at them, and a prompt of them takes no memory."""

    __slots__ = ("_count",)

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Tokens: ...
    def __getitem__(self, index: int | slice) -> int | Tokens:
        if isinstance(index, slice):
            return Tokens(len(range(*index.indices(self._count))))
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return 0


@dataclass(slots=True)
class Sampling:
    """vLLM's ``SamplingParams``, as far as routers read them."""

    max_tokens: int
    extra_args: dict[str, Any] | None = None
    thinking_token_budget: int | None = None


@dataclass(frozen=True, slots=True)
class Lora:
    """vLLM's ``LoRARequest``."""

    lora_name: str


@dataclass(slots=True)
class Request:
    """vLLM's ``EngineCoreRequest``. How long the answer will be is in ``trace``, where only the engine looks."""

    request_id: str
    trace: TraceRequest
    prompt_token_ids: Tokens
    sampling_params: Sampling
    arrival_time: float
    external_req_id: str | None = None
    prompt_embeds: None = None
    cache_salt: str | None = None
    priority: int = 0
    lora_request: Lora | None = None


@dataclass(slots=True)
class PrefillStats:
    """vLLM's of the same name: where a prompt's KV came from, in tokens."""

    num_computed_tokens: int
    num_local_cached_tokens: int
    num_external_cached_tokens: int

    @property
    def num_cached_tokens(self) -> int:
        return self.num_local_cached_tokens + self.num_external_cached_tokens


@dataclass(slots=True)
class Output:
    """vLLM's ``EngineCoreOutput``. Tokens of one output came at equal distances, the last of them when it was sent."""

    request_id: str
    new_token_ids: list[int]
    finish_reason: Any = None
    stop_reason: None = None
    prefill_stats: PrefillStats | None = None
    kv_transfer_params: None = None
    new_prompt_logprobs_tensors: None = None
    longest_gap_s: float = 0.0
    """Between two tokens of the leg, told with its last."""


class UncodedRequests(RequestCodec):
    """Hands the request itself over: both ends are in one process."""

    def __init__(self) -> None:
        """vLLM's encoder is not made."""

    def encode(self, request: Any) -> Any:
        return (request,)


class UncodedOutputs(OutputsCodec):
    """Hands the outputs themselves over."""

    def __init__(self) -> None:
        """vLLM's encoder is not made."""

    def decode(self, frames: Any) -> list[Any]:
        outputs: list[Any] = frames
        return outputs
