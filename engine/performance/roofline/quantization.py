"""Reads how a model's weights were quantised from its ``quantization_config``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from core.errors import ConfigError
from engine.performance.roofline.precision import Bits, Precision

_MODELOPT: dict[str, tuple[Bits, Bits]] = {
    "FP8": (8, 8),
    "FP8_PER_CHANNEL_PER_TOKEN": (8, 8),
    "NVFP4": (4, 4),
    "W4A8_AWQ": (4, 8),
    "W4A16_AWQ": (4, 16),
}
"""Bits of weights and activations by the name of the algorithm."""


def precision_of(config: Mapping[str, Any] | None) -> Precision:
    """None: 16 bits throughout. Raises ConfigError for a method that is not known."""
    if config is None:
        return Precision()
    method = config.get("quant_method")
    if method == "fp8":
        return Precision(weight_bits=8, activation_bits=8)
    if method == "mxfp4":
        return Precision(expert_bits=4)  # the published ones leave everything but the experts alone
    if method in {"awq", "gptq"}:
        return Precision(weight_bits=_bits(config.get("bits", 4), "bits"))
    if method == "modelopt":
        return _modelopt(config)
    if method == "compressed-tensors":
        return _compressed(config)
    raise ConfigError(f"{method!r} is not known here; say the bits yourself, such as w8a8kv16", "quantization_config.quant_method")


def _modelopt(config: Mapping[str, Any]) -> Precision:
    name = config.get("quant_algo")
    if name not in _MODELOPT:
        raise ConfigError(f"{name!r} is not known here; known: {', '.join(_MODELOPT)}", "quantization_config.quant_algo")
    kv: Bits = 8 if config.get("kv_cache_quant_algo") == "FP8" else 16
    return _precision(*_MODELOPT[name], kv, config.get("exclude_modules"))


def _compressed(config: Mapping[str, Any]) -> Precision:
    groups = config.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise ConfigError("has no group with weights", "quantization_config.config_groups")
    inputs, kv = group.get("input_activations"), config.get("kv_cache_scheme")
    return _precision(
        _bits(group["weights"].get("num_bits"), "config_groups.weights.num_bits"),
        _bits(inputs.get("num_bits"), "config_groups.input_activations.num_bits") if isinstance(inputs, Mapping) else 16,
        _bits(kv.get("num_bits"), "kv_cache_scheme.num_bits") if isinstance(kv, Mapping) else 16,
        config.get("ignore"),
    )


def _precision(weight: Bits, activation: Bits, kv: Bits, left_out: Iterable[str] | None) -> Precision:
    """Where attention is left out, shared experts and dense layers are too in all models seen so: routed experts alone are narrow."""
    if any("self_attn" in module for module in left_out or ()):
        return Precision(kv_bits=kv, expert_bits=weight, expert_activation_bits=activation)
    return Precision(weight, activation, kv)


def _bits(value: object, where: str) -> Bits:
    for bits in (4, 8, 16):
        if value == bits:
            return bits
    raise ConfigError(f"must be 4, 8 or 16, not {value!r}", f"quantization_config.{where}")
