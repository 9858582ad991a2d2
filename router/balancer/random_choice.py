"""Any worker."""

from __future__ import annotations

from collections.abc import Sequence

from core.ids import WorkerId
from router.balancer.one_by_one import OneByOne, Rating
from router.plan import Ask, View

_DRAWN = Rating((), "drawn at random")


class Random(OneByOne):
    """All equally likely, prefill and decode apart. What the others are measured against."""

    def rate_prefill(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        return [_DRAWN] * len(workers)

    def rate_decode(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        return [_DRAWN] * len(workers)
