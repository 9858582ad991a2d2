"""Every worker in turn."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from core.ids import WorkerId
from router.balancer.one_by_one import OneByOne, Rating
from router.plan import Ask, Scored, View


class RoundRobin(OneByOne):
    """Whoever has waited longest for a turn, prefill and decode counted apart. A newcomer is next."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._turn = 0
        self._last_prefill: dict[WorkerId, int] = defaultdict(int)
        self._last_decode: dict[WorkerId, int] = defaultdict(int)

    def rate_prefill(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        return self._rate("prefill", workers, self._last_prefill)

    def rate_decode(self, ask: Ask, workers: Sequence[WorkerId], view: View) -> list[Rating]:
        return self._rate("decode", workers, self._last_decode)

    @staticmethod
    def _rate(side: str, workers: Sequence[WorkerId], last: Mapping[WorkerId, int]) -> list[Rating]:
        return [Rating((turn := last.get(worker, 0),), f"last {side} turn {turn}") for worker in workers]

    def chosen(self, ask: Ask, best: Scored) -> None:
        self._turn += 1
        self._last_prefill[best.plan.prefill] = self._last_decode[best.plan.decode] = self._turn
