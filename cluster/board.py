"""The controller's notice board and its mailbox, in Ray's key-value store, where any process of the cluster reads and writes.

Not a Serve handle: a handle keeps a call to Serve open for as long as its process lives, and Ray's shutdown waits for that.
What is here outlives the controller: the next one goes on where it was.
"""

from __future__ import annotations

import json
from typing import Any

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put

from core.ids import WorkerId

_SPACE = b"baton"
_WISHES = b"baton-drain"


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


def ask_to_drain(app: str, worker: WorkerId) -> None:
    """Leaves the wish that this worker go. It holds until the worker is gone."""
    _internal_kv_put(_wish(app, worker), b"1", overwrite=True, namespace=_WISHES)


def asked_to_drain(app: str) -> set[WorkerId]:
    """The workers somebody wants gone."""
    start = _wish(app, WorkerId(""))
    return {WorkerId(key[len(start) :].decode()) for key in _internal_kv_list(start, namespace=_WISHES)}


def forget_drain(app: str, worker: WorkerId) -> None:
    """Takes a wish back, or off the list once it has come true."""
    _internal_kv_del(_wish(app, worker), namespace=_WISHES)


def _wish(app: str, worker: WorkerId) -> bytes:
    return f"{app}/{worker}".encode()
