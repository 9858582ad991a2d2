"""One model's part in a shared budget: what it claims before each plan, and what it may hold when nobody answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from autoscaler.plan import Plan
from autoscaler.shared_budget import Claim, Grant, Terms
from autoscaler.signals import WorkerSignal
from core.config import ModelConfig
from core.worker import Role

log = logging.getLogger(__name__)

_ANSWERS_WITHIN_S = 2.0
_STARTS_WITHIN_S = 30.0
"""Whoever keeps the budget may be starting, like its first askers."""

Ask = Callable[[Claim], Awaitable[Grant]]
"""Asks whoever keeps the budget. May raise anything."""


def terms_of(config: ModelConfig) -> Terms:
    """What the configuration says of a model's part."""
    scaling, cost = config.autoscaling, costs(config)
    scaled = scaling.enabled and not scaling.dry_run
    count = {role: scaling.range(role).min if scaled else config.pool(role).count for role in Role}
    return Terms(gpus(count, cost), min(cost.values()), scaling.budget_weight, claims=scaled)


def costs(config: ModelConfig) -> dict[Role, float]:
    """Of one worker of each role."""
    return {role: config.pool(role).scaled_by for role in Role}


def gpus(count: Mapping[Role, int], cost: Mapping[Role, float]) -> float:
    """Of so many workers."""
    return sum(cost[role] * number for role, number in count.items())


class BudgetClaims:
    """``cost`` is that of one worker of each role."""

    def __init__(self, ask: Ask, cost: Mapping[Role, float], budget_gpus: float, clock: Callable[[], float] = time.time) -> None:
        self._ask = ask
        self._cost = cost
        self._budget_gpus = budget_gpus
        self._clock = clock

    async def granted(self, workers: Iterable[WorkerSignal], last: Plan | None) -> Grant:
        """For the next plan: what the ``last`` one would have liked, and at least what there is. Without an answer, nothing grows."""
        held = sum(self._cost[worker.role] for worker in workers)
        liked = {} if last is None else {pool.role: pool.within_limits for pool in last.pools}
        known = {role: count for role, count in liked.items() if count is not None}
        return await self._claimed(held, max(held, gpus(known, self._cost)))

    async def begins_with(self, wanted: Mapping[Role, int], here: Mapping[Role, int]) -> Mapping[Role, int]:
        """How many workers a controller wants that has found so many. Nothing is started that was not granted; scaling does the rest."""
        held = gpus(here, self._cost)
        more = max(held, gpus(wanted, self._cost))
        if (await self._claimed(held, more, _STARTS_WITHIN_S)).gpus >= more - 1e-9:
            return wanted
        return {role: min(wanted[role], here[role]) for role in Role}  # some of those here may be leaving: they are not to be replaced

    async def _claimed(self, held_gpus: float, wanted_gpus: float, within_s: float = _ANSWERS_WITHIN_S) -> Grant:
        try:
            async with asyncio.timeout(within_s):
                return await self._ask(Claim(self._clock(), held_gpus, wanted_gpus))
        except Exception as error:  # whatever Serve says of a replica that is not there
            log.warning("scaling: nobody answers for the shared budget (%s); nothing grows meanwhile", type(error).__name__)
            return Grant(held_gpus, self._budget_gpus)
