"""Mooncake's Conductor: the prefill worker with the shortest predicted time to the first token.

Source: R. Qin et al., "Mooncake: A KVCache-centric Disaggregated Architecture for LLM Serving" (FAST'25), section 6 and algorithm 1:
per prefill instance ``TTFT = T_queue + T_prefill(length, hit)``, the queue being the prefill times of all that wait; the minimum wins;
decode by load, which there is the predicted time between tokens.

Left out: where the best hit elsewhere exceeds the own one by a threshold, Mooncake pulls the difference from that worker
(``T_transfer``), and so copies hot blocks. No engine here can pull a prefix from another prefill worker, so the difference is
computed, and priced as computed; that, too, copies hot prefixes to whoever is idle. Early rejection by either objective (section 7)
is in: both times are told with the plan, and the router refuses what would miss its promise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from core.ids import WorkerId
from core.step_model import StepModel
from router.balancer.base import Predictions, Shortlist
from router.balancer.candidates import Candidates
from router.balancer.one_by_one import OneByOne, Rating
from router.plan import Ask, Plan, Scored, View, WorkerView


class MooncakeTtft(OneByOne):
    """Seconds to the first token for prefill, seconds between tokens for decode."""

    def __init__(self, rng: random.Random, predictions: Predictions) -> None:
        super().__init__(rng)
        self._predictions = predictions

    def score(self, ask: Ask, candidates: Sequence[Plan], view: View) -> list[Scored]:
        return [self._timed(scored, ask, view) for scored in super().score(ask, candidates, view)]

    def decide(self, ask: Ask, candidates: Candidates, view: View) -> Shortlist:
        scored, priced = super().decide(ask, candidates, view)
        return Shortlist([self._timed(each, ask, view) for each in scored], priced)

    def _timed(self, scored: Scored, ask: Ask, view: View) -> Scored:
        (first,) = self.rate_prefill(ask, [scored.plan.prefill], view)
        (then,) = self.rate_decode(ask, [scored.plan.decode], view)
        return replace(scored, ttft_s=ask.waited_s + first.cost[0], tpot_s=then.cost[0])

    def rate_prefill(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        ratings = []
        for worker in workers:
            seen = view[worker]
            step = self._predictions.step_model(seen)
            queue_s = queue_to_prefill_s(seen, step, ask.now_s)
            hit = min(ask.hits.get(worker, 0), ask.prompt_tokens - 1)  # the last token is always computed
            prefill_s = step.prefill_s(ask.prompt_tokens - hit, hit, seen.card.facts.max_num_batched_tokens)
            ratings.append(Rating((queue_s + prefill_s,), f"queue {queue_s:.3f} s + prefill {prefill_s:.3f} s"))
        return ratings

    def rate_decode(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        ratings = []
        for worker in workers:
            seen = view[worker]
            step = self._predictions.step_model(seen)
            tbt_s = step.decode_s(seen.decoding + 1, seen.decode_context_tokens + ask.prompt_tokens)
            ratings.append(Rating((tbt_s,), f"{1000 * tbt_s:.1f} ms between tokens"))
        return ratings


def queue_to_prefill_s(seen: WorkerView, step: StepModel, now_s: float) -> float:
    """Seconds until the prompts that are there are computed. Of other routers' nothing is known but their number and tokens: they
    are taken to be equally long and not cached."""
    books, others, tokens_per_step = seen.books, seen.load.others, seen.card.facts.max_num_batched_tokens
    tokens = books.uncached_tokens + others.prompt_tokens
    squares = books.squares + others.prompt_tokens**2 / max(1, others.legs - others.decoding)
    steps = -(-tokens // tokens_per_step)
    total_s = step.prefill_base_s * steps + step.prefill_token_s * tokens + step.prefill_square_s * squares
    if not books.head_tokens:
        return total_s
    done_s = min(now_s - books.head_since_s, step.prefill_s(books.head_tokens, 0, tokens_per_step))
    return max(0.0, total_s - done_s)
