"""The scaler that a configuration asks for, with its limits. Reads the configuration; decides nothing."""

from __future__ import annotations

from typing import Any

import msgspec

from autoscaler.base import Scaler
from autoscaler.dynamo_planner import DynamoPlanner
from autoscaler.policy import Objective, PoolLimits, ScalerLimits, ScalerPolicy, Window
from autoscaler.scaler import BatonScaler
from cluster.spec import differing_keys
from core.autoscaling_config import EVERY_DAY
from core.config import BatonConfig
from core.step_model import StepModel
from core.worker import Role
from engine import expected


def make_scaler(config: BatonConfig) -> Scaler[Any]:
    """Raises ConfigError for step times that nobody knows."""
    limits = limits_of(config)
    if config.autoscaling.scaler == "dynamo":
        return DynamoPlanner(limits, objective_of(config))
    return BatonScaler(limits, policy_of(config))


def needs_seasons(config: BatonConfig) -> bool:
    """Whether it will ask the library for seasons, which takes seconds to load."""
    scaling = config.autoscaling
    return scaling.scaler == "baton" and scaling.season_s is not None and scaling.forecast in ("best", "seasonal")


def limits_of(config: BatonConfig) -> ScalerLimits:
    """How far it may go."""
    scaling = config.autoscaling
    windows = tuple(
        Window(each.start, each.end, frozenset(map(EVERY_DAY.index, each.days)), each.pool, each.min, each.max)
        for each in scaling.schedules
    )
    pools = {
        str(role): PoolLimits(scaling.range(role).min, scaling.range(role).max, config.pool(role).scaled_by) for role in Role
    }  # by the names of the fields
    return ScalerLimits(**pools, budget_gpus=scaling.gpu_budget, windows=windows, time_zone=scaling.time_zone)


def objective_of(config: BatonConfig) -> Objective:
    """What there are to be enough workers for: the configuration has checked that it is there."""
    own, promised = config.autoscaling.objective, config.objectives
    ttft_s, tpot_s = own.ttft_s or promised.ttft_s, own.tpot_s or promised.tpot_s
    assert ttft_s is not None
    assert tpot_s is not None
    return Objective(ttft_s, tpot_s)


def policy_of(config: BatonConfig) -> ScalerPolicy:
    """How Baton's goes about it. Workers change roles only where those of both pools are made alike."""
    scaling = config.autoscaling
    return ScalerPolicy(
        objective=objective_of(config),
        forecast=scaling.forecast,
        season_s=scaling.season_s,
        stale_s=scaling.stale_s,
        start_up_s=scaling.start_up_s,
        mixes=config.router.policy == "baton" and not differing_keys(config),
        relabel=scaling.relabel and not differing_keys(config),
        relabel_rest_s=scaling.relabel_rest_s,
        shrink_after_s=scaling.shrink_after_s,
        shrink_every_s=scaling.shrink_every_s,
        zero_after_s=scaling.zero_after_s,
        keep_asleep=scaling.keep_asleep,
        prior=prior_of(config),
        dry_run=scaling.dry_run,
    )


def prior_of(config: BatonConfig) -> StepModel | None:
    """How long steps probably take: prompts as on prefill workers, answers as on decode workers."""
    prompts, answers = expected.step_model(config, Role.PREFILL), expected.step_model(config, Role.DECODE)
    if prompts is None or answers is None:
        return None
    decode = {name: getattr(answers, name) for name in ("decode_base_s", "decode_request_s", "decode_context_s")}
    return msgspec.structs.replace(prompts, **decode)
