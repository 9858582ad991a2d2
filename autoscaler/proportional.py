"""In proportion to the length of a queue, each pool by itself: KEDA's usual rule, carried out by Kubernetes' HorizontalPodAutoscaler.

Sources, for the rule and its defaults: kubernetes.io, "Horizontal Pod Autoscaling" (desired = ceil(metric / target per replica), tolerance
0.1, a look every 15 s; up by 100 % or 4 pods per 15 s, whichever is more; down to the largest recommendation of the last 300 s), and
keda.sh, "Scaling Deployments" (a queue's length as an AverageValue metric). The metric is requests that run or wait, per worker, as the
vLLM production stack's KEDA recipe and Ray Serve's ``target_ongoing_requests`` have it.
"""

from __future__ import annotations

import math

import msgspec

from autoscaler.base import Scaler
from autoscaler.counts import clamp, counts, reach, within_budget
from autoscaler.memory import Wanted
from autoscaler.plan import Plan
from autoscaler.policy import ScalerLimits
from autoscaler.signals import Signals, fresh
from core.worker import Role

_TOLERANCE = 0.1
_LOOK_S = 15.0
_STABLE_S = 300.0
_STALE_S = 60.0
_STEP = 4


class Recommendations(msgspec.Struct, frozen=True):
    """Those of the last five minutes, the newest last."""

    made: tuple[Wanted, ...] = ()


class ProportionalScaler(Scaler[Recommendations]):
    """``per_worker`` requests, running and waiting, are right for one worker of a role."""

    name = "proportional"

    def __init__(self, limits: ScalerLimits, prefill_per_worker: float, decode_per_worker: float) -> None:
        self._limits = limits
        self._per_worker = {Role.PREFILL: prefill_per_worker, Role.DECODE: decode_per_worker}

    def first(self) -> Recommendations:
        return Recommendations()

    def plan(self, signals: Signals, state: Recommendations, now_s: float) -> tuple[Plan, Recommendations]:
        have = counts(signals)
        if state.made and now_s - state.made[-1].at_s < _LOOK_S - 1e-6:
            return reach(self.name, signals, have, now_s, "it is not time to look"), state
        best = {role: self._recommended(signals, role, have[role]) for role in Role}
        made = (*state.made, Wanted(now_s, best[Role.PREFILL], best[Role.DECODE]))
        made = tuple(old for old in made if now_s - old.at_s <= _STABLE_S)
        wanted: dict[Role, int] = {}
        for role in Role:
            down_to = max(old.of(role) for old in made)
            up_to = have[role] + max(have[role], _STEP)
            count = min(best[role], up_to) if best[role] > have[role] else min(have[role], down_to)
            wanted[role] = clamp(count, self._limits.pool(role))
        return reach(self.name, signals, within_budget(wanted, self._limits), now_s), Recommendations(made)

    def _recommended(self, signals: Signals, role: Role, have: int) -> int:
        """As many as there are, where that is nearly right or nothing is known."""
        running = fresh(signals.pool(role).running, _STALE_S)
        if running is None:
            return have
        right = running / self._per_worker[role]
        return have if have and abs(right / have - 1) <= _TOLERANCE else math.ceil(right)
