"""llm-d: a decode worker first, then whether it needs a prefill worker, then which.

Source: llm-d/llm-d-inference-scheduler (commit 520af47, May 2026), ``pkg/epp/framework/plugins/scheduling``: the handler
``disagg-profile-handler``, the decider ``prefix-based-pd-decider``, the scorers ``prefix-cache-scorer`` and
``active-request-scorer``, ``max-score-picker`` (ties at random). Weights 2 (prefix) and 1 (load) and the threshold of 16 tokens as
in its ``deploy/config/pd-epp-config.yaml``. That file has ``queue-scorer`` for the load, which reads a metric polled from the
workers; of llm-d's scorers the one taken here counts what the router itself has under way, which is never stale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.ids import WorkerId
from router.balancer.candidates import Alone
from router.balancer.one_by_one import OneByOne, Places, Rating
from router.balancer.workload import requests
from router.plan import Ask, Plan, View

PREFIX_WEIGHT = 2.0
LOAD_WEIGHT = 1.0
NON_CACHED_TOKENS = 16
"""From so many tokens on that the decode worker has not cached, the prompt is computed on a prefill worker."""


class LlmdDecodeFirst(OneByOne):
    """Both workers by the weighted sum of two scores between 0 and 1: part of the prompt cached, and how few requests it has."""

    alone = Alone.DECODE

    def rate_prefill(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        return self._rate(ask, workers, view)

    def rate_decode(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        return self._rate(ask, workers, view)

    @staticmethod
    def _rate(ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        counts = [requests(view[worker]) for worker in workers]
        most = max(counts)
        ratings = []
        for worker, count in zip(workers, counts, strict=True):
            prefix = ask.hits.get(worker, 0) / max(1, ask.prompt_tokens)
            load = (most - count) / most if count else 1.0
            ratings.append(Rating((-(PREFIX_WEIGHT * prefix + LOAD_WEIGHT * load),), f"prefix {prefix:.2f}, load {load:.2f}"))
        return ratings

    def order(self, ask: Ask, prefill: Places, decode: Places, has_pairs: bool) -> Callable[[Plan], int]:
        def place(plan: Plan) -> int:
            uncached = ask.prompt_tokens - ask.hits.get(plan.decode, 0)
            is_wanted = plan.is_split == (uncached >= NON_CACHED_TOKENS)
            return (2 * decode[plan.decode] + (not is_wanted)) * len(prefill) + prefill[plan.prefill]

        return place
