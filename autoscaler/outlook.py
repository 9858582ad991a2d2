"""What both pools need: for what is here, for what will be when new workers are ready, and at the least if somebody goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoscaler.burst import Burst
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
    """What waits is to be served as promised, in its turn, as far as that can still be, and a burst as if it went on. For this, workers
    change roles."""
    then: Need
    """With a margin for the forecast's usual error, and ``drain_s`` for what waits. For this, workers are started."""
    least: Need
    """The larger of both, and more. For this, workers are kept."""


def outlook(
    asked: Demand,
    shape: Shape,
    sudden: Burst | None,
    forecasts: Mapping[Role, Forecast],
    engines: Mapping[Role, Engine | None],
    policy: ScalerPolicy,
    mixed: bool,
) -> Outlook:
    """From tokens per second of each role. Only the need of now knows of a burst: what cannot be undone at once is not done for seconds."""
    objective = policy.objective
    prefill, decode = engines[Role.PREFILL], engines[Role.DECODE]
    today = {role: asked.tokens_per_s(role, shape) for role in Role}

    def need(tokens_per_s: Mapping[Role, float], backlog_s: float, running: float, shape: Shape = shape, in_turn: bool = False) -> Need:
        prefill_does = None if prefill is None else prefill_capacity(prefill, shape)
        decode_does = None if decode is None else decode_capacity(decode, shape, objective)
        load = Load(
            shape=shape,
            requests_per_s=tokens_per_s[Role.PREFILL] / max(1.0, shape.uncached_tokens),
            output_tokens_per_s=tokens_per_s[Role.DECODE],
            backlog_tokens=asked.backlog_tokens * (1 - shape.cached_tokens / max(1.0, shape.prompt_tokens)),
            backlog_s=backlog_s,
            running=running,
            in_turn=in_turn,
        )
        return Need(load, prefill_does, decode_does, objective.ttft_s, policy.utilisation, policy.burstiness, mixed)

    def running(tokens_per_s: Mapping[Role, float]) -> float:
        """Who decodes now stands for as many then as there are more answers."""
        then, now = tokens_per_s[Role.DECODE], today[Role.DECODE]
        return asked.running * (then / now if now > 0 else 1.0)

    this, lately = shape, today
    if sudden is not None:
        this = shape.with_prompts(sudden.prompt_tokens)
        lately = {role: sudden.requests_per_s * this.tokens(role) for role in Role}
    ahead = {role: forecast.value + forecast.margin for role, forecast in forecasts.items()}
    staying = {role: max(today[role], ahead[role]) * (1 + policy.shrink_margin) for role in Role}
    return Outlook(
        need(lately, max(objective.ttft_s - asked.waited_s, objective.ttft_s / 2), asked.running, this, in_turn=True),
        need(ahead, max(policy.drain_s, objective.ttft_s), running(ahead)),
        need(staying, objective.ttft_s, running(staying)),
    )
