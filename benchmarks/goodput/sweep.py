"""Which runs are made: the rates of a sweep, the search for each policy's best ratio, the ablations."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.goodput.runs import Runs
from benchmarks.goodput.setups import Run, Setup
from router.balancer.pricing import SWITCHES
from router.balancer.registry import POLICIES
from simulation.goodput import SHARE, Objective, Outcome, goodput

_STOP_SHARE = 0.8
"""A sweep ends at the first rate with fewer good ones."""
_AGGREGATED = ("random", "round_robin", "least_outstanding_tokens", "power_of_two", "sglang_cache_aware", "dynamo_kv", "mooncake_ttft")
"""Policies that say something about workers that do all of a request. Without prefill workers, the rest have nothing of their own left."""
OURS = "baton"


@dataclass(frozen=True, slots=True)
class Workload:
    """A trace, what is promised, and where to look."""

    trace: str
    objective: Objective
    rates: Sequence[float]
    requests: int
    ratios: Sequence[int] = (6, 8, 10)
    """Prefill workers, of sixteen, where they are disaggregated."""
    step_tokens: Sequence[int] = (512, 2048)
    """Tried where workers compute prompts and decode."""
    ours: Sequence[tuple[int, int]] = ((0, 512), (0, 1024), (0, 2048), (8, 512), (8, 2048))
    """Prefill workers and step sizes that are tried with our policy, which decides for each request."""

    @property
    def name(self) -> str:
        return f"{self.trace}, TTFT {self.objective.ttft_s:g} s, TPOT {self.objective.tpot_s * 1000:g} ms"


@dataclass(frozen=True, slots=True)
class Curve:
    """A set-up over the rates."""

    setup: Setup
    points: Sequence[Outcome]

    @property
    def goodput(self) -> float:
        """0 where even the slowest rate misses."""
        return goodput((point.rate, point.share) for point in self.points) or 0.0

    @property
    def is_found(self) -> bool:
        """Whether a rate was reached at which too few are good."""
        return self.points[-1].share < SHARE


class Sweep:
    """All of one workload."""

    def __init__(self, workload: Workload, runs: Runs, seed: int) -> None:
        self._workload = workload
        self._runs = runs
        self._seed = seed

    def curves(self, setups: Iterable[Setup], rates: Sequence[float] | None = None) -> list[Curve]:
        """One for each, rate by rate until too few are good; all set-ups side by side. Where even the first of ``rates`` is too much,
        slower ones of the workload's are tried until one is not."""
        rates = self._workload.rates if rates is None else rates
        points: dict[Setup, list[Outcome]] = {setup: [] for setup in setups}
        for rate in rates:
            going = [setup for setup, known in points.items() if not known or known[-1].share >= _STOP_SHARE]
            for run, found in self._runs.of(self._run(setup, rate) for setup in going).items():
                points[run.setup].append(found)
        for rate in reversed([rate for rate in self._workload.rates if rate < rates[0]]):
            late = [setup for setup, known in points.items() if known[0].share < SHARE]
            for run, found in self._runs.of(self._run(setup, rate) for setup in late).items():
                points[run.setup].insert(0, found)
        return [Curve(setup, known) for setup, known in points.items()]

    def best(self, policies: Sequence[str], ratios: Sequence[int], step_tokens: Sequence[int]) -> list[Curve]:
        """Each policy at the ratio and step size at which its goodput is the highest."""
        tried = self.curves(Setup(policy, ratio, tokens, lent=False) for policy in policies for ratio in ratios for tokens in step_tokens)
        return [max((curve for curve in tried if curve.setup.policy == policy), key=lambda curve: curve.goodput) for policy in policies]

    def everything(self) -> Mapping[str, Sequence[Curve]]:
        """By the name of the set-up; then the best fixed ones with all that our router does beside choosing; the ablations where there are
        prefill workers, as else half of the terms have nothing to say; and four routers where ours is best."""
        work = self._workload
        peers = [policy for policy in POLICIES if policy != OURS]
        tried = self.curves(Setup(OURS, prefill, tokens) for prefill, tokens in work.ours)
        best = max(tried, key=lambda curve: curve.goodput)
        ours, near = best.setup, self._near(best.goodput)
        pairs = max([curve for curve in tried if curve.setup.prefill] or tried, key=lambda curve: curve.goodput)
        aggregated = self.best([policy for policy in _AGGREGATED if policy in POLICIES], [0], work.step_tokens)
        # Decode workers of a static set-up hardly ever compute a prompt: their step size says nothing.
        disaggregated = self.best(peers, work.ratios, work.step_tokens[-1:])
        lent = [Setup(each.setup.policy, each.setup.prefill, each.setup.step_tokens) for each in (*_top(aggregated), *_top(disaggregated))]
        without = [replace_policy(pairs.setup, f"{OURS}-without-{term}") for term in sorted(SWITCHES - {"blur"})]
        four = [Setup(policy, ours.prefill, ours.step_tokens, 4) for policy in (OURS, f"{OURS}-without-blur", "least_outstanding_tokens")]
        return {
            "aggregated": aggregated,
            "disaggregated": disaggregated,
            "per request": sorted(tried, key=lambda curve: -curve.goodput),
            "with our router": self.curves(lent),
            "ablation": [pairs, *self.curves(without, self._near(pairs.goodput))],
            "four routers": self.curves(four, near),
        }

    def _near(self, goodput: float) -> list[float]:
        """The rates tried around a goodput: two below it and two above."""
        at = bisect_right(self._workload.rates, goodput)
        return list(self._workload.rates[max(0, at - 2) : at + 2])

    def _run(self, setup: Setup, rate: float) -> Run:
        work = self._workload
        return Run(setup, work.trace, work.requests, rate, work.objective, self._seed)


def _top(curves: Sequence[Curve], count: int = 2) -> list[Curve]:
    """Those with the highest goodput."""
    return sorted(curves, key=lambda curve: -curve.goodput)[:count]


def replace_policy(setup: Setup, policy: str) -> Setup:
    """The same cluster under another policy."""
    return Setup(policy, setup.prefill, setup.step_tokens, setup.routers)


def quick(work: Workload) -> Workload:
    """A small one, to see that everything works, and roughly where things are."""
    return replace(
        work,
        requests=min(work.requests, 3000),
        rates=work.rates[::2],
        ratios=work.ratios[1:2],
        step_tokens=work.step_tokens[:1],
        ours=work.ours[::2],
    )
