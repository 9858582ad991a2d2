"""A model by what a user calls it: a folder, a file, one that comes with Baton or is in the local Hugging Face cache. No network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from engine.performance.roofline.config_json import model_of
from engine.performance.roofline.model import Model

_SHIPPED = Path(__file__).parent / "data" / "models"


def shipped_models() -> list[str]:
    """Names of those that come with Baton, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.json"))


def find_model(name: str) -> Model:
    """Raises ConfigError: says where was looked, or which key of its ``config.json`` is missing."""
    path = _path(name)
    config = _json(path)
    # NVIDIA's quantised models say so in a file of their own.
    beside = path.with_name("hf_quant_config.json")
    quantised = _json(beside).get("quantization") if beside.is_file() else None
    if isinstance(quantised, dict):
        config = {**config, "quantization_config": {"quant_method": "modelopt", **quantised}}
    try:
        return model_of(config)
    except ConfigError as error:
        raise ConfigError(error.rule, f"{path}: {error.where}" if error.where else str(path)) from None


def _path(name: str) -> Path:
    if (shipped := _SHIPPED / f"{name}.json").is_file() and "/" not in name:
        return shipped
    given = Path(name).expanduser()
    if given.is_file():
        return given
    if (inside := given / "config.json").is_file():
        return inside
    if (cached := cached_config(name)) is not None:
        return cached
    raise ConfigError(
        f"{name!r} is no folder with a config.json, no such file, not in the Hugging Face cache ({_cache()}), "
        f"and not one of those that come with Baton: {', '.join(shipped_models())}",
        "model",
    )


def cached_config(name: str) -> Path | None:
    """A hub's model's ``config.json``, where the local cache has it.

    Of the revision that ``main`` was when it was loaded, else the newest there is.
    """
    repository = _cache() / f"models--{name.replace('/', '--')}"
    main = repository / "refs" / "main"
    if main.is_file() and (path := repository / "snapshots" / main.read_text().strip() / "config.json").is_file():
        return path
    found = sorted(repository.glob("snapshots/*/config.json"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _cache() -> Path:
    if (cache := os.environ.get("HF_HUB_CACHE")) is not None:
        return Path(cache)
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", str(path)) from None
    if not isinstance(value, dict):
        raise ConfigError("is not an object", str(path))
    return value
