"""The rule of NVIDIA Dynamo's planner (github.com/ai-dynamo/dynamo, Apache-2.0, ``components/src/dynamo/planner/core``; read in mid 2026:
``throughput_scaling.py``, ``load_scaling.py``, ``perf_model/{prefill,decode}.py``, ``budget.py``, ``config/defaults.py``), written anew on
our signals and step models.

Every 180 s the throughput loop: workers = ceil(predicted requests/s / what one engine does), an engine's prefill rate being one over the
time of a mean prompt alone, its decode rate the largest batch within the promised time per token over the length of an answer times the
step. Every 5 s, where it is switched on, the load loop: one more worker where *all* engines of a pool are expected to miss, one fewer
where the others would have room for its KV and keep 80 % of the objective, and never below the throughput loop's number; while a worker
starts, it only looks. No start-up time, no backlog, no change of roles. Of its predictors this has "constant", the last interval again,
and "kalman"; not ARIMA and Prophet.
"""

from __future__ import annotations

import math

import msgspec

from autoscaler.base import Scaler
from autoscaler.capacity import Engine, Shape, typical
from autoscaler.counts import clamp, counts, reach, within_budget
from autoscaler.demand import Demand, Means, demand
from autoscaler.local_trend import LocalTrend
from autoscaler.plan import Plan
from autoscaler.policy import Objective, ScalerLimits
from autoscaler.signals import Phase, Signals, fresh
from core.worker import Role

_THROUGHPUT_S = 180.0
_LOAD_S = 5.0
_DOWN = 0.8
"""``load_scaling_down_sensitivity``, as a share."""
_STALE_S = 60.0


class PlannerState(msgspec.Struct, frozen=True):
    """What both loops remember."""

    means: Means = Means()
    engines: tuple[Engine | None, Engine | None] = (None, None)
    arrivals: tuple[float, ...] = ()
    """Rates heard in the present interval."""
    trend: LocalTrend = LocalTrend()
    """Of requests per interval."""
    began_s: float | None = None
    looked_s: float | None = None
    least: tuple[int, int] = (0, 0)
    """The throughput loop's numbers."""


class DynamoPlanner(Scaler[PlannerState]):
    """With the load loop switched on, the throughput loop's numbers are the least; without, they are the numbers. ``interval_s`` is
    ``throughput_adjustment_interval``; ``follows_trend`` chooses the kalman predictor."""

    name = "dynamo"

    def __init__(
        self,
        limits: ScalerLimits,
        objective: Objective,
        *,
        load_loop: bool = True,
        interval_s: float = _THROUGHPUT_S,
        follows_trend: bool = False,
    ) -> None:
        self._limits = limits
        self._objective = objective
        self._load_loop = load_loop
        self._interval_s = interval_s
        self._follows_trend = follows_trend

    def first(self) -> PlannerState:
        return PlannerState()

    def plan(self, signals: Signals, state: PlannerState, now_s: float) -> tuple[Plan, PlannerState]:
        have, asked = counts(signals), demand(signals, _STALE_S)
        means = state.means.seen(signals, _STALE_S)
        prefill, decode = (
            typical(signals.workers, role) or old for role, old in zip((Role.PREFILL, Role.DECODE), state.engines, strict=True)
        )
        state = msgspec.structs.replace(state, means=means, engines=(prefill, decode))
        if isinstance(asked, str) or means.shape is None or means.output_tokens is None or prefill is None or decode is None:
            held = asked if isinstance(asked, str) else "nothing is known of requests or engines"
            return reach(self.name, signals, have, now_s, held), state
        # Its numbers are counts of the interval, without the delay of a mean over the last minute.
        heard = fresh(signals.traffic.newest_per_s, _STALE_S)
        rates = (*state.arrivals, asked.requests_per_s if heard is None else heard)
        state = msgspec.structs.replace(state, arrivals=rates, began_s=now_s if state.began_s is None else state.began_s)
        wanted = dict(have)
        if state.began_s is not None and now_s - state.began_s >= self._interval_s - 1e-6:
            rate = sum(state.arrivals) / len(state.arrivals)
            state = msgspec.structs.replace(state, trend=state.trend.seen(rate * self._interval_s))
            if self._follows_trend:
                rate = state.trend.next / self._interval_s
            least = (
                max(math.ceil(rate * self._prompt_s(prefill, means.shape)), self._ttft_floor(prefill, means.shape)),
                math.ceil(rate / self._answers_per_s(decode, means.shape)),
            )
            state = msgspec.structs.replace(state, arrivals=(), began_s=now_s, least=least)
            if not self._load_loop:
                wanted = dict(zip((Role.PREFILL, Role.DECODE), least, strict=True))
        if self._load_loop and (state.looked_s is None or now_s - state.looked_s >= _LOAD_S - 1e-6):
            state = msgspec.structs.replace(state, looked_s=now_s)
            for role, least_count in zip((Role.PREFILL, Role.DECODE), state.least, strict=True):
                step = 0 if signals.of(role, Phase.STARTING) else self._step(role, signals, asked, means.shape, prefill, decode)
                wanted[role] = max(have[role] + step, least_count)
        wanted = {role: clamp(max(1, count), self._limits.pool(role)) for role, count in wanted.items()}
        return reach(self.name, signals, within_budget(wanted, self._limits), now_s), state

    # -- the throughput loop -------------------------------------------------------------------------------------------

    def _prompt_s(self, engine: Engine, shape: Shape) -> float:
        return engine.step.prefill_s(max(1, round(shape.uncached_tokens)), 0, engine.facts.max_num_batched_tokens)

    def _ttft_floor(self, engine: Engine, shape: Shape) -> int:
        return math.ceil(self._prompt_s(engine, shape) / self._objective.ttft_s)

    def _answers_per_s(self, engine: Engine, shape: Shape) -> float:
        context, facts = max(1.0, shape.context_tokens), engine.facts
        batch = max(1, min(facts.max_num_seqs, int(facts.num_blocks * facts.block_size_tokens / context)))
        while batch > 1 and engine.step.decode_s(batch, round(batch * context)) > self._objective.tpot_s:
            batch -= 1
        return batch / (max(1.0, shape.output_tokens) * engine.step.decode_s(batch, round(batch * context)))

    # -- the load loop -------------------------------------------------------------------------------------------------

    def _step(self, role: Role, signals: Signals, asked: Demand, shape: Shape, prefill: Engine, decode: Engine) -> int:
        """Work is taken to be equal everywhere, so that all miss, or none."""
        ready = len(signals.of(role, Phase.READY))
        if not ready:
            return 0
        if role is Role.PREFILL:
            objective_s, own_s = self._objective.ttft_s, self._prompt_s(prefill, shape)
            now_s = own_s * (1 + asked.computing / ready)
            without_s = math.inf if ready == 1 else own_s * (1 + asked.computing / (ready - 1))
            keeps = without_s - own_s < _DOWN * (objective_s - own_s)
        else:
            objective_s = self._objective.tpot_s
            now_s = _step_s(decode, shape, asked.running / ready)
            each = math.inf if ready == 1 else asked.running / (ready - 1)
            room = decode.facts.num_blocks * decode.facts.block_size_tokens
            keeps = each * shape.context_tokens < room and _step_s(decode, shape, each) < _DOWN * objective_s
        return 1 if now_s > objective_s else -1 if keeps else 0


def _step_s(engine: Engine, shape: Shape, batch: float) -> float:
    return engine.step.decode_s(round(batch) + 1, round((batch + 1) * shape.context_tokens))
