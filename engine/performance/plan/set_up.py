"""Candidates: pools of engines, and what each comes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from engine.performance.plan.engine_kind import EngineKind, Pace
from engine.performance.plan.workload import Objectives


class SetUp(msgspec.Struct, frozen=True):
    """Workers for prompts and for answers, or ``prefill`` None and workers that do both."""

    decode: EngineKind
    decode_workers: int
    prefill: EngineKind | None = None
    prefill_workers: int = 0

    @property
    def gpus(self) -> int:
        return self.decode.gpus * self.decode_workers + (self.prefill.gpus * self.prefill_workers if self.prefill else 0)

    @property
    def price_per_h(self) -> float:
        prefill = self.prefill.gpu_price_per_h * self.prefill.gpus * self.prefill_workers if self.prefill else 0.0
        return prefill + self.decode.gpu_price_per_h * self.decode.gpus * self.decode_workers

    def __str__(self) -> str:
        if self.prefill is None:
            return f"{self.decode_workers} x {self.decode.name}, steps of {self.decode.budget_tokens} tokens"
        return f"{self.prefill_workers} x {self.prefill.name} for prompts, {self.decode_workers} x {self.decode.name} for answers"

    def rates(self, objectives: Objectives) -> tuple[float, float]:
        """Requests per second that either side keeps its promise for; of workers that do both, the same twice."""
        if self.prefill is None:
            both = self.decode.whole_rate(self.decode_workers, objectives)
            return both, both
        return self.prefill.prefill_rate(self.prefill_workers, objectives), self.decode.decode_rate(objectives) * self.decode_workers

    def pace(self, rate_per_s: float, objectives: Objectives) -> Pace | None:
        """What requests then get; None where that is more than the pools can do."""
        if self.prefill is None:
            return self.decode.whole_pace(self.decode_workers, rate_per_s, objectives)
        first = self.prefill.prefill_pace(self.prefill_workers, rate_per_s, objectives)
        then = self.decode.decode_pace(rate_per_s / self.decode_workers)
        return Pace(first.ttft_s, then.tpot_s, then.batch)


def candidates(prefill: Sequence[EngineKind], decode: Sequence[EngineKind], whole: Sequence[EngineKind], gpus: int) -> Iterator[SetUp]:
    """All that ``gpus`` GPUs can be: pairs of pools of every ratio, and workers that do both."""
    for kind in whole:
        if workers := gpus // kind.gpus:
            yield SetUp(kind, workers)
    for first in prefill:
        for then in decode:
            for workers in range(1, (gpus - then.gpus) // first.gpus + 1):
                yield SetUp(then, (gpus - workers * first.gpus) // then.gpus, first, workers)
