"""Small questions about vLLM's engine outputs, asked by workers and routers that must not know vLLM otherwise."""

from __future__ import annotations

from collections.abc import Sequence

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
