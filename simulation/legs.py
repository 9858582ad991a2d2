"""Legs in the engine's words: what ``PrefillLegs``, ``DecodeLegs`` and ``WholeLegs`` make of vLLM's, here of lengths."""

from __future__ import annotations

from cluster.messages import AddLeg, LegKind
from engine.sim_blocks import BlockHash
from engine.sim_content import LengthPrompt
from engine.sim_request import Emitted, Mark, PromptCounts, RemotePrompt, SimRequest
from simulation.stand_ins import PrefillStats, Request


def engine_request(add: AddLeg, request: Request) -> SimRequest:
    """What the engine is asked for a leg."""
    trace, handle = request.trace, add.handle
    is_prefill = add.kind is LegKind.PREFILL
    return SimRequest(
        leg=add.leg,
        prompt=LengthPrompt(trace.prompt_tokens, [BlockHash(block) for block in trace.block_hashes]),
        max_tokens=len(add.emitted) + 1 if is_prefill else trace.output_tokens,
        emitted=add.emitted,
        keep=is_prefill,
        remote=None if handle is None else RemotePrompt(handle.worker, handle.leg, "", 0, handle.tokens),
        priority=request.priority,
        arrival_s=request.arrival_time,
    )


def completes(add: AddLeg, request: Request) -> bool:
    """Whether the leg's end is the end of the whole answer."""
    return add.kind is not LegKind.PREFILL or len(add.emitted) + 1 >= request.trace.output_tokens


def prefill_stats(counts: PromptCounts) -> PrefillStats:
    """Where its prompt's KV came from."""
    return PrefillStats(counts.prompt - counts.local - counts.external, counts.local, counts.external)


def queue_s(emitted: Emitted) -> float:
    """How long a leg waited for its turn, told with its first token: between the first mark of each kind."""
    at_s = dict(reversed(emitted.marks))
    return at_s.get(Mark.SCHEDULED, 0.0) - at_s.get(Mark.QUEUED, 0.0)
