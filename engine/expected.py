"""What can be expected of engines and of the links between them before any of it was measured. Pure; reads the configuration."""

from __future__ import annotations

import msgspec

from core.config import BatonConfig
from core.errors import ConfigError
from core.step_model import StepModel
from core.worker import Role
from engine.performance import registry
from engine.performance.roofline.named import RooflineTime
from engine.sim_config import SimulatedEngineConfig
from engine.sim_timing import NamedTime, PolynomialTime


class ExpectedLink(msgspec.Struct, frozen=True):
    """One hand-off's. None: nothing is known."""

    gbps: float | None = None
    latency_s: float | None = None


def step_model(config: BatonConfig, role: Role) -> StepModel | None:
    """How long the steps of a pool's workers probably take; None: nobody knows. Raises ConfigError."""
    name = config.pool(role).step_times or config.engine.step_times
    if name is not None:
        return registry.step_model_by_name(name)
    simulated = _simulated(config)
    if simulated is not None and isinstance(simulated.timing, NamedTime):
        return registry.step_model_by_name(simulated.timing.name)
    if simulated is not None and isinstance(simulated.timing, RooflineTime):
        return simulated.timing.step_model
    if simulated is not None and isinstance(simulated.timing, PolynomialTime):
        return StepModel(*msgspec.structs.astuple(simulated.timing))
    return None


def kv_bytes_per_token(config: BatonConfig) -> int | None:
    """What has to be handed over for each token of a prompt; None: nobody knows. Raises ConfigError."""
    if (simulated := _simulated(config)) is not None:
        return simulated.kv_bytes_per_token
    name = config.engine.step_times or config.prefill.step_times or config.decode.step_times
    return None if name is None else registry.kv_bytes_per_token(name)


def link(config: BatonConfig) -> ExpectedLink:
    """What is configured, else what a simulated engine's link is. Raises ConfigError."""
    gbps, latency_s = config.kv_transfer.link_gbps, config.kv_transfer.link_latency_s
    if (simulated := _simulated(config)) is not None:
        gbps = gbps or simulated.link_gbps or None  # there, 0 is no limit
        latency_s = simulated.link_latency_s if latency_s is None else latency_s
    return ExpectedLink(gbps, latency_s)


def check(config: BatonConfig) -> None:
    """Raises ConfigError for step times that nobody knows, and for options that no simulated engine can be made from."""
    named = {"engine": config.engine.step_times} | {str(role): config.pool(role).step_times for role in Role}
    for section, name in named.items():
        if name is not None:
            try:
                registry.timing_by_name(name)
            except ConfigError as error:
                # Of a roofline, it may be a file or one of the name's parts that is wrong.
                rule = str(error) if registry.is_roofline(name) else error.rule
                raise ConfigError(rule, f"{section}.step_times") from None
    _simulated(config)


def _simulated(config: BatonConfig) -> SimulatedEngineConfig | None:
    return SimulatedEngineConfig.of_config(config, "127.0.0.1") if config.engine.kind == "simulated" else None
