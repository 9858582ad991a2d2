"""Which set-up keeps its promises for the most requests per GPU, or for the least money, and whether two roles are worth it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from engine.performance.plan.engine_kind import Pace
from engine.performance.plan.link import UNLIMITED
from engine.performance.plan.set_up import SetUp
from engine.performance.plan.workload import Objectives

_NOTHING_PER_S = 1e-6
_ALIKE = 0.02
"""Rates that differ by less are no reason to take more GPUs."""
_HARDLY_CHEAPER = 0.005
"""Shares of a price that are no reason for anything."""
_HARDLY_LESS = 0.9
"""What a link takes away and is not yet said to be what is full first."""
_FULL = {
    "prefill": "whose workers for prompts are full first",
    "decode": "whose workers for answers are full first",
    "link": "where KV caches need more than the link between them",
}


class Ranked(msgspec.Struct, frozen=True):
    """A set-up at some rate that it keeps its promises for."""

    set_up: SetUp
    rate_per_s: float
    pace: Pace
    """Time to the first token of ``objectives.share`` of the requests, and the mean time per token, at that rate."""
    bound_by: str
    """Which side is full first: ``prefill``, ``decode``, the ``link`` between them or, of workers that do both, ``both``."""
    most_per_s: float
    """The highest such rate."""

    @property
    def goodput_per_gpu(self) -> float:
        """Requests per second."""
        return self.rate_per_s / self.set_up.gpus

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Of output."""
        return self.goodput_per_gpu * self.set_up.decode.workload.output_tokens

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

    @property
    def gpu_bytes_per_s(self) -> float:
        """That the port of each GPU needs at least, on the side that needs more."""
        if self.set_up.prefill is None:
            return 0.0
        gpus = min(self.set_up.prefill_gpus, self.set_up.gpus - self.set_up.prefill_gpus)
        return self.rate_per_s * self.set_up.prefill.kv_bytes / gpus

    @property
    def handover_s(self) -> float:
        """Mean, between the first token and when decode can go on."""
        return self.set_up.handover_s(self.rate_per_s)


class Plan(msgspec.Struct, frozen=True):
    """Set-ups, the best first, and what to make of them."""

    ranked: tuple[Ranked, ...]
    verdict: str


def plan(set_ups: Iterable[SetUp], objectives: Objectives, by_price: bool = False) -> Plan:
    """Those that keep the promises for at least some requests, by how many, or by price; of two alike the smaller. It is the requests of
    all GPUs at hand that count, also of those that are left over."""
    found = [ranked for set_up in set_ups if (ranked := at_most(set_up, objectives)) is not None]
    best = max((each.rate_per_s for each in found), default=0.0)

    def order(each: Ranked) -> tuple[float, float]:
        if by_price:
            return each.price_per_million_tokens, each.set_up.gpus
        return math.floor(math.log(best / each.rate_per_s) / _ALIKE), each.set_up.gpus - each.rate_per_s / best

    found.sort(key=order)
    return Plan(tuple(found), verdict(found, objectives, by_price))


def smallest_first(set_ups: Iterable[SetUp], objectives: Objectives, rate_per_s: float, by_price: bool = False) -> tuple[Ranked, ...]:
    """Set-ups at that rate, those that need the fewest GPUs or the least money first; of two alike what can do more."""
    found = []
    for set_up in set_ups:
        best, pace = at_most(set_up, objectives), set_up.pace(rate_per_s, objectives)
        if best is not None and pace is not None:
            found.append(msgspec.structs.replace(best, rate_per_s=rate_per_s, pace=pace))
    found.sort(key=lambda each: (each.set_up.price_per_h if by_price else each.set_up.gpus, -each.most_per_s))
    return tuple(found)


def at_most(set_up: SetUp, objectives: Objectives) -> Ranked | None:
    """At the highest rate that it keeps the promises for; None where there is none."""
    prefill, decode = set_up.rates(objectives)
    rate = set_up.rate(objectives)
    pace = set_up.pace(rate, objectives) if rate > _NOTHING_PER_S else None
    if pace is None:
        return None
    return Ranked(set_up, rate, pace, _bound_by(set_up, prefill, decode, objectives), rate)


def _bound_by(set_up: SetUp, prefill: float, decode: float, objectives: Objectives) -> str:
    if set_up.prefill is None:
        return "both"
    if prefill < decode:
        return "prefill"
    unlinked = msgspec.structs.replace(set_up, link=UNLIMITED).rates(objectives)[1]
    return "link" if decode < _HARDLY_LESS * unlinked else "decode"


def verdict(found: Sequence[Ranked], objectives: Objectives, by_price: bool = False) -> str:
    """Whether to have two roles, and why, of set-ups with the best first."""
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
    other = split if best is whole else whole
    if by_price:
        gain = 1.0 - best.price_per_million_tokens / other.price_per_million_tokens
        difference = f"{gain:.0%} less per token than"
    else:
        gain = best.rate_per_s / other.rate_per_s - 1.0
        difference = f"{gain:+.0%} requests compared with"
    if best is whole:
        return f"Do not disaggregate: {whole.set_up}, for {difference} {split.set_up}, {_FULL[split.bound_by]}."
    return f"Disaggregate: {best.set_up}, for {difference} {whole.set_up}."


def verdict_at(found: Sequence[Ranked], rate_per_s: float, gpus: int, by_price: bool = False) -> str:
    """Whether to have two roles to carry a rate with up to ``gpus`` GPUs, and why, of set-ups that do, as ``smallest_first`` has them."""
    carried = f"{rate_per_s:.4g} requests per second"
    if not found:
        return f"Nothing carries {carried} with {gpus} GPUs."
    best, is_split = found[0], found[0].set_up.prefill is not None
    advice = f"{'Disaggregate' if is_split else 'Do not disaggregate'}: {best.set_up}"
    other = next((each for each in found if (each.set_up.prefill is not None) != is_split), None)
    if other is None:
        return f"{advice}. {'Workers that do both do' if is_split else 'Two roles do'} not carry {carried}."
    less = 1.0 - best.set_up.price_per_h / other.set_up.price_per_h if by_price else 0.0
    if by_price and less >= _HARDLY_CHEAPER:
        return f"{advice}, for {less:.0%} less per token than {other.set_up}."
    if not by_price and best.set_up.gpus < other.set_up.gpus:
        gpus_of_it = "1 GPU" if best.set_up.gpus == 1 else f"{best.set_up.gpus} GPUs"
        return f"{advice}, on {gpus_of_it} instead of the {other.set_up.gpus} of {other.set_up}."
    alike = "at the price of" if by_price else "on as many GPUs as"
    return f"{advice}, {alike} {other.set_up}: it carries up to {best.most_per_s:.4g} requests per second, not {other.most_per_s:.4g}."
