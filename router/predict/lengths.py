"""How many tokens a request will still make, from how long answers like it were.

Moving histograms per model, tenant and prompt length, as in AIBrix's length-aware routing, whose buckets these are
(``round(log2(prompt tokens))``). Where few were seen, coarser ones answer: the tenant's, the model's, everybody's.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from router.predict.histogram import LengthHistogram

Key = tuple[str | int, ...]

_ENOUGH = 8
"""Answers longer than what is out already that a histogram has to know before it is believed."""


class OutputLengths:
    """Learns from finished answers. Bounded: ``max_keys`` histograms of a kilobyte, those that were not added to for longest go.

    An answer that ended at its ``max_tokens`` counts as if it had been over.
    """

    def __init__(self, default_tokens: int = 256, memory: int = 512, max_keys: int = 4096) -> None:
        self._default_tokens = default_tokens
        self._memory = memory
        self._max_keys = max_keys
        self._known: OrderedDict[Key, LengthHistogram] = OrderedDict()

    def observe(self, model: str, tenant: str, prompt_tokens: int, output_tokens: int) -> None:
        """An answer is complete. Not for those that were aborted or failed."""
        if output_tokens <= 0:
            return
        for key in _keys(model, tenant, prompt_tokens):
            histogram = self._known.get(key)
            if histogram is None:
                histogram = self._known[key] = LengthHistogram(self._memory)
            histogram.add(output_tokens)
            self._known.move_to_end(key)  # the coarser behind the finer: they go last
        while len(self._known) > self._max_keys:
            self._known.popitem(last=False)

    def expected(self, model: str, tenant: str, prompt_tokens: int, max_tokens: int, emitted: int = 0) -> float:
        """Tokens still to come, on average, of an answer of which ``emitted`` of at most ``max_tokens`` are out."""
        if emitted >= max_tokens:
            return 0.0
        histogram = self._histogram(model, tenant, prompt_tokens, emitted)
        if histogram is None:
            return self._guess(max_tokens, emitted)
        return histogram.mean_beyond(emitted, max_tokens) - emitted

    def quantile(self, part: float, model: str, tenant: str, prompt_tokens: int, max_tokens: int, emitted: int = 0) -> float:
        """So many tokens or fewer will still come in that part (0 to 1) of such cases."""
        if emitted >= max_tokens:
            return 0.0
        histogram = self._histogram(model, tenant, prompt_tokens, emitted)
        if histogram is None:
            return self._guess(max_tokens, emitted)
        return max(0.0, min(max_tokens, histogram.quantile_beyond(emitted, part)) - emitted)

    def __len__(self) -> int:
        return len(self._known)

    def _histogram(self, model: str, tenant: str, prompt_tokens: int, emitted: int) -> LengthHistogram | None:
        """The finest that knows enough longer answers."""
        for key in _keys(model, tenant, prompt_tokens):
            histogram = self._known.get(key)
            if histogram is not None and histogram.beyond(emitted) >= _ENOUGH:
                return histogram
        return None

    def _guess(self, max_tokens: int, emitted: int) -> float:
        """What is long already will be long: as much again, or the default, or what is left."""
        return float(min(max_tokens - emitted, max(self._default_tokens, emitted)))


def _keys(model: str, tenant: str, prompt_tokens: int) -> tuple[Key, ...]:
    """From the finest to the coarsest."""
    return (model, tenant, round(math.log2(max(1, prompt_tokens)))), (model, tenant), (model,), ()
