"""The balancer: possible plans, priced by a policy, the cheapest taken, all of it written down."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from core.ids import WorkerId
from core.worker import Role
from router.balancer.adapter_load import holders
from router.balancer.base import KEPT, Policy
from router.balancer.candidates import TOO_LONG, Alone, candidates
from router.plan import Ask, Decision, Plan, Scored, View
from router.sight import pool_of

_LOOKED_AT = 16
"""Of a larger pool, so many workers are looked at, drawn anew for each request: as good as all for balance (Mitzenmacher's power
of k choices), quicker, and routers that know the same do not all see the same best one."""
_WITH_HITS = 16
"""Those that have most of the prompt in their caches are looked at in any case."""

_WITH_ADAPTER = 16
"""So many of those that have the request's adapter, likewise."""


class Oracle(Protocol):
    """Knows what is to be expected of a plan, whoever has chosen it."""

    def foretell(self, ask: Ask, plan: Plan, view: View) -> Scored:
        """With its terms, its ``ttft_s`` and its ``tpot_s``."""

    def soonest_s(self, ask: Ask, view: View, ahead_tokens: float, everywhere: bool) -> float:
        """When its first token will come, from its arrival, if it waits until workers have taken on so many tokens for others.
        ``everywhere``: decode workers, too, are given whole requests."""

    def chosen(self, ask: Ask, best: Scored) -> None:
        """Told which plan is followed."""

    def forget(self, worker: WorkerId) -> None:
        """The worker is no member any more."""


class Balancer:
    """One per router. ``choose`` is called once per request and again when a worker refused or was lost."""

    def __init__(
        self,
        policy: Policy,
        rng: random.Random | None = None,
        stopwatch: Callable[[], float] = time.perf_counter,
        oracle: Oracle | None = None,
    ) -> None:
        """``oracle`` predicts what a policy that only compares workers does not: then its requests, too, can be refused early. It may be
        the policy itself."""
        self._policy = policy
        self._predicts = oracle
        same: object = policy
        self._oracle = oracle if oracle is not same else None
        self._rng = rng or random.Random()
        self._stopwatch = stopwatch

    def choose(self, ask: Ask, view: View) -> Decision:
        """The decision at this moment; ``chosen`` is None when no worker can take the request now."""
        began_s = self._stopwatch()
        some = self._some(ask, view)
        possible = candidates(ask, some, self._policy.alone)
        if not possible and len(some) < len(view):
            possible = candidates(ask, view, self._policy.alone)
        rejected = possible.rejected
        if not possible:
            hopeless = bool(rejected) and all(reason.startswith(TOO_LONG) for reason in rejected.values())
            return Decision(None, (), rejected, "no worker can take it", hopeless, self._stopwatch() - began_s)
        scored, priced = self._policy.decide(ask, possible, view)
        best = min(scored, key=lambda candidate: candidate.cost)
        if best.ttft_s is None and self._oracle is not None:
            foretold = self._oracle.foretell(ask, best.plan, view)
            best = replace(best, terms=foretold.terms, ttft_s=foretold.ttft_s, tpot_s=foretold.tpot_s, keeps=foretold.keeps)
        if best.plan.prefill in possible.full:
            now = [each for each in scored if each.plan.prefill not in possible.full and each.ttft_s is not None]
            otherwise = min(now, key=lambda candidate: candidate.cost, default=None)
            took_s = self._stopwatch() - began_s
            reason = f"waits for {best.plan.prefill}"
            return Decision(None, (), rejected, reason, took_s=took_s, awaited=possible.full, otherwise=otherwise)
        kept = heapq.nsmallest(KEPT, scored, key=lambda candidate: candidate.cost)
        return Decision(best, kept, rejected, possible.kind, took_s=self._stopwatch() - began_s, priced=priced)

    def soonest_s(self, ask: Ask, view: View, ahead_tokens: float) -> float | None:
        """When the first token of a request for which nobody has room will come, from its arrival; None: nobody can tell."""
        if self._predicts is None:
            return None
        some = self._some(ask, view)
        return self._predicts.soonest_s(ask, some, ahead_tokens * len(some) / len(view), self._policy.alone is Alone.DECODE)

    @property
    def binds_late(self) -> bool:
        """Whether who decodes is decided again when the prompt is computed."""
        return self._policy.binds_late

    def follow(self, ask: Ask, chosen: Scored) -> None:
        """A decision is carried out. One that is not has no part in what policies remember."""
        self._policy.chosen(ask, chosen)
        if self._oracle is not None:
            self._oracle.chosen(ask, chosen)

    def forget(self, worker: WorkerId) -> None:
        """The worker is no member any more."""
        self._policy.forget(worker)
        if self._oracle is not None:
            self._oracle.forget(worker)

    def is_possible(self, ask: Ask, view: View) -> bool:
        """Whether ``choose`` would find a plan now. Decides nothing."""
        return bool(candidates(ask, view, self._policy.alone))

    def _some(self, ask: Ask, view: View) -> View:
        """A small view of a large cluster: some of each pool, and those with the longest hits."""
        if len(view) <= _LOOKED_AT:
            return view
        pools = [pool_of(view, role) for role in Role]
        names = dict.fromkeys([ask.keeper] if ask.keeper is not None and ask.keeper in view else [])
        names |= dict.fromkeys(heapq.nlargest(_WITH_HITS, (worker for worker in ask.hits if worker in view), key=lambda w: ask.hits[w]))
        names |= dict.fromkeys(self._few(holders(ask, view), _WITH_ADAPTER))
        for pool in pools:
            names |= dict.fromkeys(self._few(pool, _LOOKED_AT))
        return {worker: view[worker] for worker in names} if len(names) < len(view) else view

    def _few(self, workers: Sequence[WorkerId], most: int) -> Sequence[WorkerId]:
        return self._rng.sample(workers, min(most, len(workers)))
