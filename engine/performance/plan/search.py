"""Of all set-ups that there could be, those worth a look: there may be thousands of workers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import msgspec

from engine.performance.plan.engine_kind import EngineKind
from engine.performance.plan.link import UNLIMITED, Link
from engine.performance.plan.set_up import SetUp
from engine.performance.plan.stock import Stock
from engine.performance.plan.waiting import smallest
from engine.performance.plan.workload import Objectives


class Search(msgspec.Struct, frozen=True):
    """What set-ups may be made of, and what they have to keep."""

    prefill: tuple[EngineKind, ...]
    decode: tuple[EngineKind, ...]
    whole: tuple[EngineKind, ...]
    """For workers that do both."""
    stock: Stock
    asked: Objectives
    link: Link = UNLIMITED

    @property
    def pairs(self) -> Iterator[tuple[EngineKind, EngineKind]]:
        return ((first, then) for first in self.prefill for then in self.decode)

    def balanced(self) -> Iterator[SetUp]:
        """With all that is in stock: workers that do both, and of each pair of kinds the two ratios between which the side that is full
        first changes, as with more workers for prompts they carry more, and those for answers less."""
        for kind in self.whole:
            if workers := self.stock.workers(kind):
                yield SetUp(kind, workers)
        for first, then in self.pairs:
            most = self.stock.workers(first, 1, then)
            enough = smallest(partial(self._is_enough, first, then), most)
            for workers in (most,) if enough is None else (enough, enough - 1):
                if workers >= 1:
                    yield self._filled(first, then, workers)

    def carrying(self, rate_per_s: float) -> Iterator[SetUp]:
        """The smallest of each kind, and of each pair of kinds, that carry so many requests per second."""
        for kind in self.whole:
            workers = smallest(partial(self._is_enough_whole, kind, rate_per_s), self.stock.workers(kind))
            if workers is not None:
                yield SetUp(kind, workers)
        for first, then in self.pairs:
            if (found := self._smallest_pair(first, then, rate_per_s)) is not None:
                yield found

    def _smallest_pair(self, first: EngineKind, then: EngineKind, rate_per_s: float) -> SetUp | None:
        prompts = smallest(lambda count: first.prefill_rate(count, self.asked) >= rate_per_s, self.stock.workers(first, 1, then))
        if prompts is None:
            return None

        def carry(count: int) -> bool:
            return SetUp(then, count, first, prompts, self.link).carries(rate_per_s, self.asked)

        answers = smallest(carry, self.stock.workers(then, prompts, first))
        return None if answers is None else SetUp(then, answers, first, prompts, self.link)

    def _filled(self, first: EngineKind, then: EngineKind, prefill_workers: int) -> SetUp:
        return SetUp(then, self.stock.workers(then, prefill_workers, first), first, prefill_workers, self.link)

    def _is_enough(self, first: EngineKind, then: EngineKind, prefill_workers: int) -> bool:
        prompts, answers = self._filled(first, then, prefill_workers).rates(self.asked)
        return prompts >= answers

    def _is_enough_whole(self, kind: EngineKind, rate_per_s: float, workers: int) -> bool:
        return kind.whole_keeps(workers, rate_per_s, self.asked)
