"""Small questions about vLLM's engine outputs, asked by workers and routers that must not know vLLM otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from vllm.v1.engine import EngineCoreEventType, EngineCoreOutput, FinishReason

from core.ids import LegId


def take_queue_seconds(outputs: Sequence[EngineCoreOutput]) -> dict[LegId, float]:
    """Seconds between a leg's QUEUED and first SCHEDULED event, for outputs that carry both.

    The events are taken off: their clock is the engine process's and means nothing to anyone else.
    """
    seconds: dict[LegId, float] = {}
    for output in outputs:
        at: dict[EngineCoreEventType, float] = {}
        for event in output.events or ():
            at.setdefault(event.type, event.timestamp)
        output.events = None
        if EngineCoreEventType.QUEUED in at and EngineCoreEventType.SCHEDULED in at:
            seconds[LegId(output.request_id)] = at[EngineCoreEventType.SCHEDULED] - at[EngineCoreEventType.QUEUED]
    return seconds


def reached_length(output: EngineCoreOutput) -> bool:
    """Whether the leg ended at its token limit."""
    return bool(output.finish_reason is FinishReason.LENGTH)


def stopped(output: EngineCoreOutput) -> bool:
    """Whether the leg ended by what it sampled: a stop token, or a repetition it was told to stop at."""
    return output.finish_reason in (FinishReason.STOP, FinishReason.REPETITION)


def error_output(request_id: str) -> EngineCoreOutput:
    """A last output that vLLM's server turns into an error: status 500, or an error event in a stream."""
    return EngineCoreOutput(request_id, [], finish_reason=FinishReason.ERROR)


def merged(steps: Iterable[Sequence[EngineCoreOutput]]) -> list[EngineCoreOutput]:
    """The outputs of several steps as one step's: a request's tokens joined where nothing but tokens is told of them.

    For a reader that has fallen behind: detokenising and streaming twenty tokens at once costs little more than one. vLLM's
    front half takes many tokens in one output as it does from speculative decoding. Order within a request is kept; outputs
    with logprobs are passed on one by one. Changes the outputs it is given.
    """
    result: list[EngineCoreOutput] = []
    growing: dict[str, EngineCoreOutput] = {}
    for output in itertools.chain.from_iterable(steps):
        before = growing.get(output.request_id) if _only_tokens(output) else None
        if before is None:
            result.append(output)
            before = output
        else:
            before.new_token_ids = [*before.new_token_ids, *output.new_token_ids]
            before.finish_reason, before.stop_reason = output.finish_reason, output.stop_reason
        if _only_tokens(before) and before.finish_reason is None:
            growing[output.request_id] = before
        else:
            growing.pop(output.request_id, None)
    return result


def _only_tokens(output: EngineCoreOutput) -> bool:
    return bool(output.new_logprobs is None and output.new_prompt_logprobs_tensors is None and output.prefill_stats is None)


def finish_reason(name: str) -> FinishReason:
    """vLLM's reason for an end: stop, length, abort, error or repetition."""
    return FinishReason[name.upper()]
