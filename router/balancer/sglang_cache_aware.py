"""SGLang's router: by cache while loads are even, by load when they are not.

Source: sgl-project/sglang, ``sgl-router`` (now ``sgl-model-gateway``), ``src/policies/cache_aware.rs``; thresholds as its Python
bindings have had them from the first release on (later launchers start with 64, 1.5 and 0.3). Its own example for disaggregated
serving takes this rule for prefill and two choices for decode (``--prefill-policy cache_aware --decode-policy power_of_two``).
The original guesses the caches from the requests it has sent; here it is given the real ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.ids import WorkerId
from router.balancer.one_by_one import OneByOne, Rating
from router.balancer.workload import requests
from router.plan import Ask, View

BALANCE_ABS_THRESHOLD = 32
"""Requests by which the most and the least loaded worker may differ."""
BALANCE_REL_THRESHOLD = 1.0001
CACHE_THRESHOLD = 0.5
"""Part of the prompt that must be cached for the cache to count."""


class SglangCacheAware(OneByOne):
    """Prefill: the shortest queue when loads are uneven; else whoever has more than half of the prompt; else the shortest queue."""

    def rate_prefill(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        loads = [requests(view[worker]) for worker in workers]
        hits = [ask.hits.get(worker, 0) for worker in workers]
        most, least = max(loads), min(loads)
        is_uneven = most - least > BALANCE_ABS_THRESHOLD and most > BALANCE_REL_THRESHOLD * least
        if is_uneven:
            return [Rating((load,), f"loads uneven: {load} requests") for load in loads]
        if max(hits) > CACHE_THRESHOLD * ask.prompt_tokens:
            return [Rating((-hit, load), f"{hit} tokens cached") for hit, load in zip(hits, loads, strict=True)]
        return [Rating((load,), f"too little cached anywhere: {load} requests") for load in loads]

    def rate_decode(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        drawn = set(self._rng.sample(workers, min(2, len(workers))))
        return [
            Rating((worker not in drawn, load := requests(view[worker])), f"{load} requests" if worker in drawn else "not drawn")
            for worker in workers
        ]
