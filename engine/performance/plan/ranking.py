"""Which set-up keeps its promises for the most requests per GPU, or for the least money, and whether two roles are worth it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from engine.performance.plan.engine_kind import Pace
from engine.performance.plan.set_up import SetUp
from engine.performance.plan.workload import Objectives


class Ranked(msgspec.Struct, frozen=True):
    """A set-up at the highest rate that it keeps its promises for."""

    set_up: SetUp
    rate_per_s: float
    pace: Pace
    """Time to the first token of ``objectives.share`` of the requests, and the mean time per token, at that rate."""
    bound_by: str
    """Which side is full first: ``prefill``, ``decode`` or, of workers that do both, ``both``."""

    @property
    def goodput_per_gpu(self) -> float:
        """Requests per second."""
        return self.rate_per_s / self.set_up.gpus

    @property
    def price_per_million_tokens(self) -> float:
        """Of output. Infinite where nothing is kept."""
        tokens_per_h = self.rate_per_s * self.set_up.decode.workload.output_tokens * 3600.0
        return self.set_up.price_per_h / tokens_per_h * 1e6 if tokens_per_h else float("inf")

    @property
    def kv_bytes_per_s(self) -> float:
        """That each decode worker has to receive, on average; with less, hand-overs queue and answers wait for their second token."""
        if self.set_up.prefill is None:
            return 0.0
        return self.rate_per_s * self.set_up.prefill.kv_bytes / self.set_up.decode_workers

    def handover_s(self, bytes_per_s: float) -> float:
        """Of one prompt over an idle link: between the first token and the second. Infinite below what is needed on average."""
        if self.set_up.prefill is None:
            return 0.0
        return self.set_up.prefill.kv_bytes / bytes_per_s if bytes_per_s > self.kv_bytes_per_s else float("inf")


class Plan(msgspec.Struct, frozen=True):
    """Set-ups, the best first, and what to make of them."""

    ranked: tuple[Ranked, ...]
    verdict: str


def plan(set_ups: Iterable[SetUp], objectives: Objectives, by_price: bool = False) -> Plan:
    """Those that keep the promises for at least some requests, by goodput per GPU or by price; of two alike the smaller."""
    found = [ranked for set_up in set_ups if (ranked := _ranked(set_up, objectives)) is not None]
    if by_price:
        found.sort(key=lambda each: (each.price_per_million_tokens, each.set_up.gpus))
    else:
        found.sort(key=lambda each: (-each.goodput_per_gpu, each.set_up.gpus))
    return Plan(tuple(found), _verdict(found, objectives))


def _ranked(set_up: SetUp, objectives: Objectives) -> Ranked | None:
    prefill, decode = set_up.rates(objectives)
    rate = min(prefill, decode)
    pace = set_up.pace(rate, objectives) if rate > 0.0 else None
    if pace is None:
        return None
    bound = "both" if set_up.prefill is None else "prefill" if prefill < decode else "decode"
    return Ranked(set_up, rate, pace, bound)


def _verdict(found: Sequence[Ranked], objectives: Objectives) -> str:
    promises = f"{objectives.ttft_s:g} s to the first token and {objectives.tpot_s * 1e3:g} ms per token"
    if not found:
        return f"Nothing keeps {promises}: the model does not fit, or one request by itself already takes longer."
    best = found[0]
    whole = next((each for each in found if each.set_up.prefill is None), None)
    split = next((each for each in found if each.set_up.prefill is not None), None)
    if whole is None:
        return f"Disaggregate: {best.set_up}. Workers that do both do not keep {promises} at all."
    if split is None:
        return f"Do not disaggregate: with two roles, {promises} are not kept at all. {whole.set_up}."
    if best is whole:
        less = 1.0 - split.goodput_per_gpu / whole.goodput_per_gpu
        full = f"the best pair of pools, {split.set_up}, for {less:.0%} fewer per GPU, as its {split.bound_by} side is full first"
        return f"Do not disaggregate: {whole.set_up} keep {promises} for the most requests; {full}."
    gain = split.goodput_per_gpu / whole.goodput_per_gpu - 1.0
    return f"Disaggregate: {best.set_up}, for {gain:+.0%} requests per GPU compared with {whole.set_up}."
