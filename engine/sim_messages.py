"""Between vLLM's engine messages and the simulated engine's own: nothing in the simulation itself needs vLLM."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch
from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.outputs import LogprobsLists

from core.ids import LegId
from engine.sampling import emitted_tokens
from engine.sim_blocks import BlockEvent, BlocksRemoved, BlocksStored
from engine.sim_request import Emitted, KeptPrompt, PromptCounts, RemotePrompt, SimRequest

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "error": FinishReason.ERROR}
_MEDIUM = "GPU"  # what vLLM's events say of blocks that are ready for use, on CPU engines too


def transfer_params(request: EngineCoreRequest) -> dict[str, Any]:
    """What a request says about KV transfer; empty for a plain request."""
    sampling = request.sampling_params
    return ((sampling.extra_args or {}).get("kv_transfer_params") or {}) if sampling is not None else {}


def remote_prompt(params: dict[str, Any], prompt_tokens: int) -> RemotePrompt | None:
    """Where to pull from; None where nothing is offered. Raises KeyError for parameters without an address."""
    if not params.get("do_remote_prefill"):
        return None
    tokens = params.get("remote_num_tokens") or prompt_tokens
    return RemotePrompt(params["remote_engine_id"], params["remote_request_id"], params["remote_host"], params["remote_port"], tokens)


def to_sim_request(request: EngineCoreRequest, max_model_len: int) -> SimRequest | None:
    """The request as the scheduler takes it; None where the simulated engine cannot do it (pooling, embeddings)."""
    sampling, prompt = request.sampling_params, request.prompt_token_ids
    if sampling is None or prompt is None:
        return None
    params = transfer_params(request)
    return SimRequest(
        leg=LegId(request.request_id),
        prompt=prompt,
        emitted=emitted_tokens(sampling),
        max_tokens=sampling.max_tokens if sampling.max_tokens is not None else max_model_len - len(prompt),
        min_tokens=sampling.min_tokens,
        stop_token_ids=frozenset(sampling.stop_token_ids or ()),
        eos_token_id=None if sampling.ignore_eos else sampling.eos_token_id,
        salt=request.cache_salt,
        adapter=request.lora_request.lora_name if request.lora_request is not None else None,
        keep=bool(params.get("do_remote_decode")),
        remote=remote_prompt(params, len(prompt)),
        priority=request.priority,
        arrival_s=request.arrival_time,
    )


def to_output(emitted: Emitted, num_logprobs: int | None, vocab_size: int, handle: dict[str, Any] | None) -> EngineCoreOutput:
    """One sampled token as vLLM's front half reads it."""
    return EngineCoreOutput(
        request_id=emitted.leg,
        new_token_ids=[] if emitted.token is None else [emitted.token],
        new_logprobs=None if num_logprobs is None or emitted.token is None else _logprobs(emitted.token, num_logprobs, vocab_size),
        finish_reason=_REASONS[emitted.ended] if emitted.ended else None,
        stop_reason=emitted.stop_token_id,
        events=[EngineCoreEvent(EngineCoreEventType(mark), time_s) for mark, time_s in emitted.marks] if emitted.marks else None,
        kv_transfer_params=handle,
        prefill_stats=None if emitted.counts is None else _prefill_stats(emitted.counts),
    )


def to_handle(kept: KeptPrompt, leg: LegId, engine_id: str, host: str, port: int) -> dict[str, Any]:
    """The parameters under which another engine pulls a kept prompt, in the words of vLLM's NIXL connector."""
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [kept.blocks],
        "remote_engine_id": engine_id,
        "remote_request_id": leg,
        "remote_host": host,
        "remote_port": port,
        "remote_num_tokens": kept.tokens,
        "tp_size": 1,
    }


def encode_events(events: list[BlockEvent], timestamp: float, block_size_tokens: int) -> bytes:
    """One message of vLLM's KV event stream."""
    return msgspec.msgpack.encode(KVEventBatch(ts=timestamp, events=[_to_event(event, block_size_tokens) for event in events]))


def _to_event(event: BlockEvent, block_size_tokens: int) -> BlockStored | BlockRemoved | AllBlocksCleared:
    if isinstance(event, BlocksStored):
        return BlockStored(
            block_hashes=list(event.hashes),
            parent_block_hash=event.parent,
            token_ids=list(event.token_ids),
            block_size=block_size_tokens,
            lora_id=None,
            medium=_MEDIUM,
            lora_name=event.adapter,
            extra_keys=[_extra_keys(event, first=not index) for index in range(len(event.hashes))],
            group_idx=0,
        )
    if isinstance(event, BlocksRemoved):
        return BlockRemoved(block_hashes=list(event.hashes), medium=_MEDIUM, group_idx=0)
    return AllBlocksCleared()


def _extra_keys(event: BlocksStored, *, first: bool) -> tuple[str, ...] | None:
    """What a block is hashed with beside tokens, in vLLM's order."""
    keys = (event.adapter, event.salt if first else None)
    return tuple(key for key in keys if key is not None) or None


def _prefill_stats(counts: PromptCounts) -> PrefillStats:
    stats = PrefillStats()
    stats.set(counts.prompt, counts.local, counts.external)
    stats.finalize(counts.prompt)
    return stats


def _logprobs(token: int, num_logprobs: int, vocab_size: int) -> LogprobsLists:
    """The sampled token, then the ``num_logprobs`` (-1: all) most likely ones; the sampled one is always the likeliest."""
    top = vocab_size if num_logprobs == -1 else min(num_logprobs, vocab_size)
    token_ids = np.concatenate(([token], (token + np.arange(top)) % vocab_size)).astype(np.int32)
    logprobs = np.concatenate(([-0.1], -0.1 - 2.5 * np.arange(top))).astype(np.float32)
    return LogprobsLists(token_ids[None], logprobs[None], np.ones(1, dtype=np.int32))
