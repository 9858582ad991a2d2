"""Which source a configuration asks for."""

from __future__ import annotations

import os

from cluster.signals.base import Routers, SignalSource
from cluster.signals.direct import DirectSource
from cluster.signals.prometheus import PrometheusSource
from core.autoscaling_config import AutoscalingConfig
from core.errors import ConfigError


def make_source(config: AutoscalingConfig, app: str, routers: Routers) -> SignalSource:
    """Raises ConfigError for a token that is not there."""
    if config.prometheus is None:
        return DirectSource(routers, config.window_s)
    name = config.prometheus_token_env
    if name is not None and name not in os.environ:
        raise ConfigError(f"the controller has no environment variable {name}", "autoscaling.prometheus_token_env")
    token = os.environ[name] if name else None
    return PrometheusSource(config.prometheus, app, routers, config.stale_s, config.window_s, token)


def make_second_source(config: AutoscalingConfig, routers: Routers) -> SignalSource | None:
    """Who is asked for what the source of ``make_source`` learns too late: the routers, unless they are that source."""
    return None if config.prometheus is None else DirectSource(routers, config.window_s)
