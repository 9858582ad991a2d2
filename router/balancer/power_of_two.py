"""The better of two, drawn at random.

M. Mitzenmacher, "The power of two choices in randomized load balancing" (IEEE TPDS 12(10), 2001). With many routers that all know
the load only roughly, it keeps them from all running to the same worker.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.ids import WorkerId
from router.balancer.one_by_one import OneByOne, Rating
from router.balancer.workload import decode_tokens, prompt_tokens
from router.plan import Ask, View


class PowerOfTwo(OneByOne):
    """Two prefill and two decode workers are drawn; of each two, the one with fewer outstanding tokens is taken."""

    def rate_prefill(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        return self._rate(workers, view)

    def rate_decode(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        return self._rate(workers, view)

    def _rate(self, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        drawn = set(self._rng.sample(workers, min(2, len(workers))))
        ratings = []
        for worker in workers:
            tokens = prompt_tokens(view[worker]) + decode_tokens(view[worker])
            is_drawn = worker in drawn
            ratings.append(Rating((not is_drawn, tokens), f"{tokens} tokens outstanding" if is_drawn else "not drawn"))
        return ratings
