"""NVIDIA Dynamo's KV router: blocks to compute and blocks held, one pool after the other.

Source: ai-dynamo/dynamo 1.4 to 1.6, ``lib/kv-router/src/scheduling/selector`` (the cost) and ``lib/llm/src/kv_router/prefill_router``
(the two pools, conditional disaggregation), with its defaults: ``prefill_load_scale`` 1.0, ``overlap_score_credit`` 1.0 without
decay, ``decode_active_request_weight`` 0, temperature 0, ties at random. Two differences: blocks shared by several running requests
are counted for each of them, and output tokens count as held, which Dynamo leaves off unless asked (``router_track_output_blocks``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.ids import WorkerId
from router.balancer.candidates import Alone
from router.balancer.one_by_one import OneByOne, Places, Rating
from router.plan import Ask, Plan, View, WorkerView

PREFILL_LOAD_SCALE = 1.0
OVERLAP_SCORE_CREDIT = 1.0
BYPASS_BELOW_TOKENS = 2048
"""Uncached tokens; a prompt with more is computed on a prefill worker."""
BYPASS_BELOW_RATIO = 0.7
"""Uncached part of the prompt, likewise."""


class DynamoKv(OneByOne):
    """Prefill by the blocks it would have to compute for all and to hold; decode by those to hold alone. Always two workers."""

    def rate_prefill(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        ratings = []
        for worker in workers:
            seen = view[worker]
            size = seen.card.facts.block_size_tokens
            prompts = (seen.books.uncached_tokens + seen.load.others.prompt_tokens + ask.prompt_tokens) / size
            compute = PREFILL_LOAD_SCALE * max(0.0, prompts - _credit_blocks(ask, seen))
            hold = _held_blocks(ask, seen)
            ratings.append(Rating((compute + hold,), f"{compute:.0f} blocks to compute + {hold:.0f} to hold"))
        return ratings

    def rate_decode(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        return [Rating((hold := _held_blocks(ask, view[worker]),), f"{hold:.0f} blocks to hold") for worker in workers]


class DynamoKvConditional(DynamoKv):
    """With conditional disaggregation: a decode worker whose cache has most of a prompt computes the little that is left itself."""

    alone = Alone.DECODE

    def rate_decode(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        ratings = []
        for worker in workers:
            hold, credit = _held_blocks(ask, view[worker]), _credit_blocks(ask, view[worker])
            ratings.append(Rating((max(0.0, hold - credit),), f"{hold:.0f} blocks to hold, {credit:.0f} there"))
        return ratings

    def order(self, ask: Ask, prefill: Places, decode: Places, has_pairs: bool) -> Callable[[Plan], int]:
        usual = super().order(ask, prefill, decode, has_pairs)
        if not has_pairs:
            return usual
        favourite = next(iter(decode))
        uncached = ask.prompt_tokens - ask.hits.get(favourite, 0)
        is_bypassed = uncached < BYPASS_BELOW_TOKENS and uncached < BYPASS_BELOW_RATIO * ask.prompt_tokens
        behind_all_pairs = len(prefill) * len(decode)

        def place(plan: Plan) -> int:
            if plan.is_split:
                return usual(plan)
            return -1 if is_bypassed and plan.decode == favourite else behind_all_pairs + usual(plan)

        return place


def _credit_blocks(ask: Ask, seen: WorkerView) -> float:
    return OVERLAP_SCORE_CREDIT * ask.hits.get(seen.card.worker, 0) / seen.card.facts.block_size_tokens


def _held_blocks(ask: Ask, seen: WorkerView) -> float:
    """Blocks of all that is under way there and of this request."""
    books, others = seen.books, seen.load.others
    # Of this router's, a prefill worker's are prompts and a decode worker's contexts; who does both has its prompts in both books.
    own = max(seen.outstanding_prefill_tokens, books.context_tokens)
    return (own + others.prompt_tokens + others.context_tokens + ask.prompt_tokens) / seen.card.facts.block_size_tokens
