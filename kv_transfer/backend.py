"""Transfer back-ends by name: what each asks of the engine. The configuration picks one; the first of the table is the default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """The ``kv_transfer`` part of the configuration, resolved for one worker."""

    lease_s: int
    buffer_device: str
    """Where NIXL's buffers live: ``cpu`` or ``cuda``."""
    progress_thread_rest_us: int
    pull_timeout_s: float = 10.0
    """After which a pull that neither comes nor fails counts as failed."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Passed through to the back-end as it is (NIXL: ``kv_connector_extra_config``)."""


def _nixl(settings: TransferSettings) -> dict[str, Any]:
    return {
        "kv_connector": "BatonConnector",
        "kv_connector_module_path": "kv_transfer.connector",
        "kv_role": "kv_both",  # a role is a label: any worker can be relabelled without a restart
        "kv_buffer_device": settings.buffer_device,
        # A pull that fails is computed again locally: slower, never a wrong token.
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "kv_lease_duration": settings.lease_s,
            "progress_thread_rest_us": settings.progress_thread_rest_us,
            "pull_timeout_s": settings.pull_timeout_s,
            **settings.options,
        },
    }


_BACKENDS: dict[str, Callable[[TransferSettings], dict[str, Any]]] = {"nixl": _nixl}


def transfer_config(backend: str, settings: TransferSettings) -> dict[str, Any]:
    """The ``kv_transfer_config`` of a vLLM engine for a back-end. Raises ConfigError for an unknown name."""
    try:
        make = _BACKENDS[backend]
    except KeyError:
        raise ConfigError(f"unknown back-end {backend!r}; known: {', '.join(_BACKENDS)}", "kv_transfer.backend") from None
    return make(settings)
