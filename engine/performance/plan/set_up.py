"""Candidates: pools of engines, and what each comes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from engine.performance.plan.engine_kind import EngineKind, Pace
from engine.performance.plan.link import UNLIMITED, Link, handover_s
from engine.performance.plan.waiting import InTurn, Waits, largest
from engine.performance.plan.workload import Objectives


class SetUp(msgspec.Struct, frozen=True):
    """Workers for prompts and for answers, or ``prefill`` None and workers that do both."""

    decode: EngineKind
    decode_workers: int
    prefill: EngineKind | None = None
    prefill_workers: int = 0
    link: Link = UNLIMITED

    @property
    def gpus(self) -> int:
        return self.decode.gpus * self.decode_workers + self.prefill_gpus

    @property
    def prefill_gpus(self) -> int:
        return self.prefill.gpus * self.prefill_workers if self.prefill else 0

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
        return self.prefill.prefill_rate(self.prefill_workers, objectives), largest(
            lambda rate_per_s: self._room_in_time(rate_per_s, objectives),
            self.decode.decode_limit(self.decode_workers, objectives.tpot_s),
        )

    def rate(self, objectives: Objectives) -> float:
        """Requests per second that both promises are kept for: who waits on both sides may be late though neither alone would make it."""
        limit = min(self.rates(objectives))
        return limit if self.prefill is None else largest(lambda rate_per_s: self._in_time(rate_per_s, objectives), limit)

    def carries(self, rate_per_s: float, objectives: Objectives) -> bool:
        """Whether both promises are kept for so many requests per second."""
        if self.prefill is None:
            return self.decode.whole_keeps(self.decode_workers, rate_per_s, objectives)
        return (
            self.prefill.prefill_rate(self.prefill_workers, objectives) >= rate_per_s
            and self._room_in_time(rate_per_s, objectives)
            and self._in_time(rate_per_s, objectives)
        )

    def pace(self, rate_per_s: float, objectives: Objectives) -> Pace | None:
        """What requests then get; None where that is more than the pools can do."""
        if self.prefill is None:
            return self.decode.whole_pace(self.decode_workers, rate_per_s, objectives)
        ttft_s = self._waits(rate_per_s, objectives).within_s(self.prefill.prompt_s, objectives.share)
        then = self.decode.decode_pace(rate_per_s / self.decode_workers)
        return Pace(ttft_s, then.tpot_s + self._handover_per_token_s(rate_per_s), then.batch)

    def handover_s(self, rate_per_s: float) -> float:
        """Mean time between the first token and when decode can go on; infinite where links are full, 0 where nothing is handed over."""
        if self.prefill is None:
            return 0.0
        ends = ((self.prefill_workers, self.prefill.gpus), (self.decode_workers, self.decode.gpus))
        return handover_s(self.link, rate_per_s, self.prefill.kv_bytes, ends)

    def _waits(self, rate_per_s: float, objectives: Objectives) -> InTurn:
        """Before the first token: for a worker to compute the prompt, and for one with room for the answer, as the router sends no prompt
        off before."""
        assert self.prefill is not None
        return InTurn(self.prefill.prompt_waits(self.prefill_workers, rate_per_s), self._room_waits(rate_per_s, objectives))

    def _in_time(self, rate_per_s: float, objectives: Objectives) -> bool:
        assert self.prefill is not None
        return self._waits(rate_per_s, objectives).late(self.prefill.prompt_s, objectives.ttft_s) <= 1.0 - objectives.share

    def _room_in_time(self, rate_per_s: float, objectives: Objectives) -> bool:
        """Who waits for room half of the promised time to the first token is taken to be late; and a hand-over is a pause in the answer,
        which may not be longer than that promise."""
        if self.handover_s(rate_per_s) > objectives.ttft_s:
            return False
        return self._room_waits(rate_per_s, objectives).longer(objectives.ttft_s / 2.0) <= 1.0 - objectives.share

    def _room_waits(self, rate_per_s: float, objectives: Objectives) -> Waits:
        tpot_s = objectives.tpot_s - self._handover_per_token_s(rate_per_s)
        return self.decode.answer_waits(self.decode_workers, rate_per_s, tpot_s)

    def _handover_per_token_s(self, rate_per_s: float) -> float:
        """The mean time per token has the hand-over in it, shared out to all tokens but the first."""
        return self.handover_s(rate_per_s) / max(1, self.decode.workload.output_tokens - 1)


def candidates(
    prefill: Sequence[EngineKind], decode: Sequence[EngineKind], whole: Sequence[EngineKind], gpus: int, link: Link = UNLIMITED
) -> Iterator[SetUp]:
    """All that ``gpus`` GPUs can be: pairs of pools of every ratio, and workers that do both."""
    for kind in whole:
        if workers := gpus // kind.gpus:
            yield SetUp(kind, workers)
    for first in prefill:
        for then in decode:
            for workers in range(1, (gpus - then.gpus) // first.gpus + 1):
                yield SetUp(then, (gpus - workers * first.gpus) // then.gpus, first, workers, link)
