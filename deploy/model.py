"""Which model the configuration means, on this node."""

from __future__ import annotations

from core.config import BatonConfig


def model_path(config: BatonConfig) -> str:
    """A directory or a hub name. The demo model is built here if this node has none yet (seconds, no network)."""
    if not config.is_demo_model:
        return config.model
    from deploy.demo_model import ensure_demo_model

    return str(ensure_demo_model())
