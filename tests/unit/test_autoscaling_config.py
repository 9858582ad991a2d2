"""The section ``autoscaling``: what is refused, and what scaler comes of it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from autoscaler.dynamo_planner import DynamoPlanner
from autoscaler.policy import Objective, PoolLimits, Window
from autoscaler.scaler import BatonScaler
from cluster.scaling_policy import limits_of, make_scaler, needs_seasons, policy_of, prior_of
from cluster.signals.direct import DirectSource
from cluster.signals.prometheus import PrometheusSource
from cluster.signals.registry import make_second_source, make_source
from core.autoscaling_config import AutoscalingConfig
from core.config import BatonConfig
from core.errors import ConfigError
from core.worker import Role
from deploy.app import routers_config

PROMISED = {"ttft_s": 2.0, "tpot_s": 0.05}


def config(scaling: dict[str, Any], **args: Any) -> BatonConfig:
    return BatonConfig.model_validate({"model": "m", "objectives": PROMISED, "autoscaling": {"enabled": True, **scaling}, **args})


@pytest.mark.parametrize(
    ("scaling", "where", "rule"),
    [
        ({"prefill": {"min": 4, "max": 2}}, "autoscaling.prefill", "`min` is at most `max`"),
        ({"decode": {"min": 2}}, "autoscaling", "change `count`, or `decode.min`"),
        ({"prefill": {"max": 0, "min": 0}}, "autoscaling.prefill.max", "greater than or equal to 1"),
        ({"gpu_budget": 0.5}, "autoscaling", "take 2 at the least; raise it"),
        ({"schedules": [{"start": "7:30", "end": "19:00", "min": 2}]}, "autoscaling.schedules.0.start", "pattern"),
        ({"schedules": [{"start": "24:00", "end": "24:00", "min": 2}]}, "autoscaling.schedules.0.start", "pattern"),
        ({"schedules": [{"start": "07:30", "end": "19:00"}]}, "autoscaling.schedules.0", "give `min`, `max` or both"),
        ({"schedules": [{"start": "07:30", "end": "19:00", "min": 3, "max": 2}]}, "autoscaling.schedules.0", "`min` is at most `max`"),
        ({"schedules": [{"start": "07:30", "end": "19:00", "min": 1, "days": []}]}, "autoscaling.schedules.0.days", "at least 1"),
        ({"time_zone": "Berlin"}, "autoscaling.time_zone", "`Europe/Berlin`"),
        ({"prometheus": "127.0.0.1:9090"}, "autoscaling.prometheus", "pattern"),
        ({"interval_s": 0}, "autoscaling.interval_s", "greater than or equal to 0.1"),
        ({"scaler": "keda"}, "autoscaling.scaler", "'baton' or 'dynamo'"),
        ({"scaler": "dynamo", "schedules": [{"start": "07:30", "end": "19:00", "min": 2}]}, "autoscaling", "`scaler: baton` only"),
        ({"scaler": "dynamo", "decode": {"min": 0}}, "autoscaling", "write `min: 1`"),
        ({"minimum": 1}, "autoscaling.minimum", "Extra inputs"),
    ],
)
def test_rules(scaling: dict[str, Any], where: str, rule: str) -> None:
    """Each broken rule is found at its key, and the message says what to write instead."""
    with pytest.raises(ValidationError) as caught:
        config(scaling)
    [error] = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == where
    assert rule in error["msg"]


def test_it_has_to_know_what_for() -> None:
    """Without any promise nobody can say how many workers are enough; one of its own will do."""
    with pytest.raises(ValidationError, match=r"Set `objective.tpot_s` here, or `objectives.tpot_s`"):
        BatonConfig.model_validate({"model": "m", "objectives": {"ttft_s": 1}, "autoscaling": {"enabled": True}})
    own = {"enabled": True, "objective": {"ttft_s": 3.0, "tpot_s": 0.1}}
    assert policy_of(BatonConfig.model_validate({"model": "m", "autoscaling": own})).objective == Objective(3.0, 0.1)


def test_off_nothing_of_it_has_to_fit() -> None:
    """A section that is prepared and not enabled stops nobody."""
    BatonConfig.model_validate({"model": "m", "autoscaling": {"decode": {"min": 7}, "gpu_budget": 1}})


def test_limits() -> None:
    """A pool's bounds with the price of its workers; days by their names; and schedules in the scaler's words."""
    schedules = [{"start": "22:00", "end": "06:00", "days": ["mon", "sun"], "pool": "decode", "max": 2}]
    made = limits_of(
        config(
            {"prefill": {"min": 0, "max": 3}, "gpu_budget": 6, "schedules": schedules, "time_zone": "Europe/Berlin"},
            prefill={"num_gpus": 0.5},
            decode={"num_gpus": 1, "count": 2},
        )
    )
    assert made.prefill == PoolLimits(0, 3, 0.5)
    assert made.decode == PoolLimits(1, 16, 1.0)
    assert made.budget == 6
    assert made.windows == (Window("22:00", "06:00", frozenset({0, 6}), Role.DECODE, None, 2),)


@pytest.mark.parametrize(
    ("schedules", "when"),
    [
        ([{"start": "08:00", "end": "18:00", "min": 6}], "mon 08:00"),
        ([{"start": "08:00", "end": "18:00", "pool": name, "min": 4} for name in ("prefill", "decode")], "mon 08:00"),
        (
            [
                {"start": "20:00", "end": "02:00", "days": ["fri"], "pool": "prefill", "min": 5},
                {"start": "01:00", "end": "03:00", "days": ["sat"], "pool": "decode", "min": 3},
            ],
            "sat 01:00",
        ),
    ],
)
def test_minima_of_schedules_are_within_the_budget(schedules: list[dict[str, object]], when: str) -> None:
    """Of all that hold at one time: a pool that takes all GPUs leaves nobody to do the rest of a request."""
    with pytest.raises(ValidationError, match=f"both pools take .* at the least on {when}, by `schedules`"):
        config({"gpu_budget": 6, "schedules": schedules})
    config({"gpu_budget": 6, "schedules": [{**each, "min": 3} for each in schedules]})


def test_a_later_schedule_can_make_room() -> None:
    """The last one that says something says it; a `max` below an earlier `min` lowers that."""
    both = {"start": "08:00", "end": "18:00"}
    config({"gpu_budget": 6, "schedules": [{**both, "min": 6}, {**both, "max": 3}]})


def test_plans_are_made_often_enough() -> None:
    """What lies between two of them has to be known to the second."""
    with pytest.raises(ValidationError, match="`interval_s` is at most half of `stale_s`"):
        config({"interval_s": 20, "stale_s": 30})


def test_every_schedule_that_passes_is_a_window() -> None:
    """From the first to the last minute of a day."""
    edges = [{"start": "00:00", "end": "24:00", "min": 1}, {"start": "23:59", "end": "00:00", "max": 0}]
    assert len(limits_of(config({"schedules": edges})).windows) == 2


def test_roles_change_only_where_pools_are_alike() -> None:
    """A worker that was made for the one pool cannot do for the other where that has other arguments."""
    assert policy_of(config({})).relabel
    assert not policy_of(config({"relabel": False})).relabel
    assert not policy_of(config({}, prefill={"engine_args": {"max_num_batched_tokens": 8192}})).relabel
    assert policy_of(config({}, prefill={"count": 3, "drain_timeout_s": 9})).relabel


def test_what_is_expected_of_steps() -> None:
    """Prompts as on prefill workers, answers as on decode workers; nothing where that is not said of both."""
    named = "h100-llama-3.1-8b-tp1"
    assert prior_of(config({})) is None
    assert prior_of(config({}, prefill={"step_times": named})) is None
    prior = prior_of(config({}, engine={"step_times": named}))
    assert prior is not None
    assert prior.prefill_token_s > 0
    assert prior.decode_base_s > 0


def test_scalers_by_name() -> None:
    """Baton's own unless another one is asked for; seasons only for who foresees them."""
    assert isinstance(make_scaler(config({})), BatonScaler)
    assert isinstance(make_scaler(config({"scaler": "dynamo"})), DynamoPlanner)
    assert needs_seasons(config({}))
    assert not any(needs_seasons(config(without)) for without in ({"season_s": None}, {"forecast": "trend"}, {"scaler": "dynamo"}))


async def test_sources_by_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus where one is named, and routers behind it; its token has to be where it is said to be."""
    monkeypatch.delenv("PROMETHEUS_TOKEN", raising=False)
    url = "http://127.0.0.1:9090/prefix/"
    assert isinstance(make_source(AutoscalingConfig(), "baton", dict), DirectSource)
    assert isinstance(make_source(AutoscalingConfig(prometheus=url), "baton", dict), PrometheusSource)
    with pytest.raises(ConfigError, match="no environment variable PROMETHEUS_TOKEN"):
        make_source(AutoscalingConfig(prometheus=url, prometheus_token_env="PROMETHEUS_TOKEN"), "baton", dict)
    assert make_second_source(AutoscalingConfig(), dict) is None
    assert isinstance(make_second_source(AutoscalingConfig(prometheus=url), dict), DirectSource)


def test_routers_do_not_read_it() -> None:
    """They are not replaced for another limit."""
    assert "autoscaling" not in routers_config(config({}))
    assert routers_config(config({})) == routers_config(config({"prefill": {"max": 9}}))
