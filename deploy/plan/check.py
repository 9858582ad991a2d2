"""The best set-ups of an answer in the simulator: the production router and queue under a virtual clock, with the same step times."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from deploy.plan.answer import Answer
from deploy.plan.text import seconds, table
from deploy.plan.virtual import BLOCK_TOKENS, cluster_of
from engine.performance.plan.engine_kind import Pace
from engine.performance.plan.ranking import Ranked
from simulation.cluster import Cluster
from simulation.goodput import Objective, Outcome, goodput, outcome
from simulation.traces import Trace, TraceRequest

EASY = 0.8
"""Of the predicted goodput: where waits are compared, as at the edge itself they depend on chance."""
_UP, _DOWN = (1.0, 1.15, 1.3), (1.0, 0.9, 0.7, 0.5)
_ROUNDS = 6
"""Times as many requests as are in flight at once, so that the cluster fills up and stays full."""
_FEWEST, _MOST = 500, 3000
_SEED = 1


@dataclass(frozen=True, slots=True)
class Checked:
    """A set-up as it was predicted and as it was simulated; paces are at ``EASY`` of the predicted goodput."""

    ranked: Ranked
    predicted: Pace
    simulated: Pace
    simulated_most_per_s: float | None
    """The rate up to which the promised share is good; None: no rate that was tried."""
    split_share: float
    """Of requests that the router gave to two workers."""

    def told(self) -> dict[str, Any]:
        """For programs."""
        return {
            "set_up": str(self.ranked.set_up),
            "predicted": {"most_per_s": self.ranked.most_per_s, "ttft_s": self.predicted.ttft_s, "tpot_s": self.predicted.tpot_s},
            "simulated": {"most_per_s": self.simulated_most_per_s, "ttft_s": self.simulated.ttft_s, "tpot_s": self.simulated.tpot_s},
        }


def check(answer: Answer, say: Callable[[str], None]) -> list[Checked]:
    """``say`` is told what is simulated."""
    checked = []
    with _undisturbed():
        for ranked in _worth_it(answer):
            checked.append(_checked(answer, ranked, say))
    return checked


def table_of(answer: Answer, checked: Sequence[Checked]) -> list[str]:
    """Predicted and simulated side by side."""
    head = ("set-up", "goodput", "simulated", "", "TTFT", "simulated", "", "TPOT", "simulated", "", "on two workers")
    share = answer.question.asked.share
    rows = [
        (
            str(each.ranked.set_up),
            f"{each.ranked.most_per_s:.2f}/s",
            "-" if each.simulated_most_per_s is None else f"{each.simulated_most_per_s:.2f}/s",
            _off(each.ranked.most_per_s, each.simulated_most_per_s),
            *_pair(each.predicted.ttft_s, each.simulated.ttft_s),
            *_pair(each.predicted.tpot_s, each.simulated.tpot_s),
            f"{each.split_share:.0%}",
        )
        for each in checked
    ]
    told = f"Simulated, requests at random times; TTFT (of {share:.0%}) and TPOT (mean) at {EASY:.0%} of the predicted goodput:"
    return [told, *table(head, rows)]


def _checked(answer: Answer, ranked: Ranked, say: Callable[[str], None]) -> Checked:
    asked, easy = answer.question.asked, EASY * ranked.most_per_s
    predicted = ranked.set_up.pace(easy, asked)
    assert predicted is not None  # less than the most
    run = partial(simulated, answer, ranked, say)
    first = run(easy)
    found = [(easy, first.share)]
    for part in _UP if (at_most := run(ranked.most_per_s)).share >= asked.share else _DOWN:
        result = at_most if part == 1.0 else run(part * ranked.most_per_s)
        found.append((part * ranked.most_per_s, result.share))
        if (result.share < asked.share) == (part >= 1.0) and part != 1.0:
            break
    tpots = first.tpot_s
    met = Pace(first.ttft_s[round(asked.share * 100)], sum(tpots) / len(tpots) if tpots else 0.0)
    return Checked(ranked, predicted, met, goodput(found, asked.share), first.split_share)


def simulated(answer: Answer, ranked: Ranked, say: Callable[[str], None], rate_per_s: float) -> Outcome:
    """What becomes of so many requests per second."""
    say(f"simulating {ranked.set_up} at {rate_per_s:.1f} requests per second")
    asked, trace = answer.question.asked, requests_of(answer, ranked, rate_per_s)
    longest = max(each.prompt_tokens + each.output_tokens for each in trace.requests)
    records = Cluster(cluster_of(answer, ranked.set_up, longest), _SEED).replay(trace)
    return outcome(records, Objective(asked.ttft_s, asked.tpot_s))


def requests_of(answer: Answer, ranked: Ranked, rate_per_s: float) -> Trace:
    """The trace that was asked about, faster or slower; without one, requests of one size at random times."""
    question, workload = answer.question, answer.question.workload
    in_flight = rate_per_s * (workload.output_tokens * ranked.pace.tpot_s + ranked.pace.ttft_s)
    count = round(min(_MOST, max(_FEWEST, _ROUNDS * in_flight)))
    if question.trace is not None:
        # The part's own rate, not the whole trace's: a trace may begin slowly.
        part = replace(question.trace, requests=question.trace.requests[:count])
        return part.at_rate(rate_per_s).in_blocks_of(BLOCK_TOKENS)
    rng, now_s, requests = random.Random(_SEED), 0.0, []
    shared, full = workload.cached_tokens // BLOCK_TOKENS, workload.input_tokens // BLOCK_TOKENS
    for number in range(count):
        now_s += rng.expovariate(rate_per_s)
        own = range(full * (number + 1) + shared, full * (number + 2))
        requests.append(TraceRequest(now_s, workload.input_tokens, workload.output_tokens, (*range(shared), *own)))
    return Trace("made up", requests, BLOCK_TOKENS)


def _worth_it(answer: Answer) -> list[Ranked]:
    """The best of either kind, and the next that has other engines."""
    by_engines: dict[tuple[str, str], Ranked] = {}
    for each in answer.chosen:
        first = each.set_up.prefill
        by_engines.setdefault((first.name if first is not None else "", each.set_up.decode.name), each)
    best = [each for each in (answer.split, answer.whole) if each is not None]
    others = [each for each in by_engines.values() if each not in best]
    return sorted([*best, *others[:1]], key=answer.chosen.index)


def _pair(predicted_s: float, simulated_s: float) -> tuple[str, str, str]:
    return seconds(predicted_s), seconds(simulated_s), _off(predicted_s, simulated_s)


def _off(predicted: float, simulated: float | None) -> str:
    """What the prediction is off by."""
    return f"({predicted / simulated - 1.0:+.0%})" if simulated else ""


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Requests that are refused are counted, not told; and next to nothing in a simulation is circular, so nobody looks for it."""
    before, collects = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        logging.disable(before)
