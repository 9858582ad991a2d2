"""A model by what a user calls it: a folder, a file, one that comes with Baton or is in the local Hugging Face cache. No network."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from engine.performance.roofline.config_json import model_of
from engine.performance.roofline.model import Model

_SHIPPED = Path(__file__).parent / "data" / "models"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


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


def config_at(name: str) -> Path | None:
    """Where ``name`` is a file, or a folder with a ``config.json``."""
    given = Path(name).expanduser()
    return next((path for path in (given, given / "config.json") if path.is_file()), None)


def _path(name: str) -> Path:
    found = _shipped(name) or config_at(name) or cached_config(name) or _shipped(name.lower())
    if found is not None:
        return found
    on_the_hub = name if _HUB_NAME.fullmatch(name) else "REPO"
    raise ConfigError(
        f"{name!r} is no folder with a config.json, no such file, not in the Hugging Face cache ({_cache()}), "
        f"and not one of those that come with Baton: {', '.join(shipped_models())}. "
        f"`hf download {on_the_hub} config.json` gets what is needed of one on the hub; of others, give the folder",
        "model",
    )


def _shipped(name: str) -> Path | None:
    path = _SHIPPED / f"{name}.json"
    return path if "/" not in name and path.is_file() else None


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
