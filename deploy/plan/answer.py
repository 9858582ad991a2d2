"""The answer to a question: set-ups, the best first, the smallest that carries what is asked for, and what follows for the network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from core.errors import ConfigError
from deploy.plan.question import Question
from engine.performance.plan.kinds import Kinds, kinds_of
from engine.performance.plan.link import LATENCY_S, Link
from engine.performance.plan.ranking import Plan, Ranked, at_most, plan, smallest_first, verdict_at
from engine.performance.plan.search import Search
from engine.performance.plan.stock import Stock
from engine.performance.plan.waiting import largest
from engine.performance.roofline.hardware import find_hardware

LINKS_GBPS = (10.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0)
"""Of a GPU's port: what networks are built with."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``plan`` is for as many GPUs as ``stock`` says; ``smallest`` are at the rate asked for, if one was."""

    question: Question
    kinds: Kinds
    stock: Stock
    plan: Plan
    smallest: tuple[Ranked, ...]
    took_s: float

    @property
    def chosen(self) -> tuple[Ranked, ...]:
        """What is recommended, best first: the smallest that carry the rate where one is asked for, else those that carry most."""
        return self.smallest or self.plan.ranked

    @property
    def carries(self) -> bool:
        """Whether something carries the rate that is asked for, if one is."""
        return bool(self.smallest) or self.question.rate_per_s is None

    @property
    def verdict(self) -> str:
        """On ``chosen``: for the rate where one is asked for. The one for as many requests as possible is ``plan.verdict``."""
        if self.question.rate_per_s is None:
            return self.plan.verdict
        return verdict_at(self.smallest, self.question.rate_per_s, self.stock.gpus, self.question.by_price)

    @property
    def split(self) -> Ranked | None:
        """The best of those with two roles."""
        return next((each for each in self.chosen if each.set_up.prefill is not None), None)

    @property
    def whole(self) -> Ranked | None:
        """The best of those whose workers do both."""
        return next((each for each in self.chosen if each.set_up.prefill is None), None)

    def over(self, ranked: Ranked, link_gbps: float) -> Ranked | None:
        """The same set-up over another network, at most; None: it keeps its promises for nobody."""
        return _over(self.question, ranked, link_gbps)

    def link_that_pays_gbps(self) -> float | None:
        """Of each GPU's port, below which the best workers that do both carry more than the best with two roles; None: never."""
        if self.split is None or self.whole is None:
            return None
        split, whole = self.split, self.whole.most_per_s / self.whole.set_up.gpus * self.split.set_up.gpus

        def worse(link_gbps: float) -> bool:
            found = _over(self.question, split, link_gbps)
            return found is None or found.most_per_s < whole

        ends = LINKS_GBPS[-1]
        return None if worse(ends) else largest(worse, ends) or None


def answer(question: Question, say: Callable[[str], None] = lambda text: None) -> Answer:
    """``say`` is told what is done next. Raises ConfigError where no GPU has room for the model, or nothing carries the rate."""
    began_s = time.perf_counter()
    say("how fast engines are that could be made of it")
    kinds = kinds_of(
        question.model, question.prices, question.workload, question.tps, question.precision, is_calibrated=question.is_calibrated
    )
    if not kinds.whole:
        raise ConfigError("the model fits on none of these GPUs:\n  " + "\n  ".join(kinds.unfit) + f"\n{_what_to_do(question)}", "--gpu")
    stock = question.stock
    search = Search(kinds.prefill, kinds.decode, kinds.whole, stock, question.asked, question.link)
    smallest: tuple[Ranked, ...] = ()
    if question.rate_per_s is not None:
        say(f"which are the smallest that carry {question.rate_per_s:g} requests per second")
        smallest = smallest_first(search.carrying(question.rate_per_s), question.asked, question.rate_per_s, question.by_price)
        if smallest and question.most_gpus is None:
            stock = Stock(smallest[0].set_up.gpus, stock.of)
    say(f"which keep their promises for the most requests, with {stock.gpus} GPUs")
    found = plan(msgspec.structs.replace(search, stock=stock).balanced(), question.asked, question.by_price)
    if not found.ranked:
        raise ConfigError(found.verdict, "--ttft, --tpot")
    return Answer(question, kinds, stock, found, smallest, time.perf_counter() - began_s)


def _what_to_do(question: Question) -> str:
    """Where no engine has room."""
    wider = max(question.tps) < max(find_hardware(gpu).node_gpus for gpu in question.gpus)
    return (
        "A worker has GPUs of one node: workers over several nodes (pipeline parallelism) are not planned. Take GPUs with more memory, "
        + ("more of them for each worker (--tp), " if wider else "")
        + "fewer bits (--precision w4a16kv8), or, where it is KV that has no room, shorter requests."
    )


def _over(question: Question, ranked: Ranked, link_gbps: float) -> Ranked | None:
    link = Link(link_gbps * 1e9 / 8.0, LATENCY_S)
    return at_most(msgspec.structs.replace(ranked.set_up, link=link), question.asked)
