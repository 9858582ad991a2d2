"""What both pools need: for what is here, for what will be when new workers are ready, and at the least if somebody goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoscaler.capacity import Engine, Shape, decode_capacity, prefill_capacity
from autoscaler.demand import Demand
from autoscaler.forecast import Forecast
from autoscaler.policy import ScalerPolicy
from autoscaler.sizing import Load, Need
from core.worker import Role


@dataclass(frozen=True, slots=True)
class Outlook:
    """Three loads, each with what it needs."""

    now: Need
    """What waits is to be served as promised, as far as that can still be. For this, workers change roles."""
    then: Need
    """With a margin for the forecast's usual error, and ``drain_s`` for what waits. For this, workers are started."""
    least: Need
    """The larger of both, and more. For this, workers are kept."""


def outlook(
    asked: Demand,
    shape: Shape,
    forecasts: Mapping[Role, Forecast],
    engines: Mapping[Role, Engine | None],
    policy: ScalerPolicy,
    mixed: bool,
) -> Outlook:
    """From tokens per second of each role."""
    objective = policy.objective
    prefill, decode = engines[Role.PREFILL], engines[Role.DECODE]
    prefill_does = None if prefill is None else prefill_capacity(prefill, shape)
    decode_does = None if decode is None else decode_capacity(decode, shape, objective)
    today = {role: asked.tokens_per_s(role, shape) for role in Role}

    def need(tokens_per_s: Mapping[Role, float], backlog_s: float) -> Need:
        then, now = tokens_per_s[Role.DECODE], today[Role.DECODE]
        load = Load(
            shape=shape,
            requests_per_s=tokens_per_s[Role.PREFILL] / max(1.0, shape.uncached_tokens),
            output_tokens_per_s=then,
            backlog_tokens=asked.backlog_tokens * (1 - shape.cached_tokens / max(1.0, shape.prompt_tokens)),
            backlog_s=backlog_s,
            # Who decodes now stands for as many then as there are more answers.
            running=asked.running * (then / now if now > 0 else 1.0),
        )
        return Need(load, prefill_does, decode_does, objective.ttft_s, policy.utilisation, policy.burstiness, mixed)

    ahead = {role: forecast.value + forecast.margin for role, forecast in forecasts.items()}
    staying = {role: max(today[role], ahead[role]) * (1 + policy.shrink_margin) for role in Role}
    return Outlook(
        need(today, max(objective.ttft_s - asked.waited_s, objective.ttft_s / 2)),
        need(ahead, max(policy.drain_s, objective.ttft_s)),
        need(staying, objective.ttft_s),
    )
