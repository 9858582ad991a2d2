"""The controller's notice board: its status, in Ray's key-value store, where any process of the cluster reads it at once.

Not a Serve handle: a handle keeps a call to Serve open for as long as its process lives, and Ray's shutdown waits for that.
"""

from __future__ import annotations

import json
from typing import Any

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

_SPACE = b"baton"


def post(app: str, status: dict[str, Any]) -> None:
    """Replaces what the board says of an application."""
    _internal_kv_put(app.encode(), json.dumps(status).encode(), overwrite=True, namespace=_SPACE)


def read(app: str) -> dict[str, Any] | None:
    """What the board says; None when nothing was posted."""
    text = _internal_kv_get(app.encode(), namespace=_SPACE)
    status: dict[str, Any] | None = json.loads(text) if text else None
    return status


def clear(app: str) -> None:
    """Takes the notice down."""
    _internal_kv_del(app.encode(), namespace=_SPACE)
