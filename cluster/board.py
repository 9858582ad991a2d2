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
_ROLES = b"baton-role"
_ANSWERS = b"baton-role-answer"
_WANTED = b"baton-wanted"
_SCALER = b"baton-scaler"
_BUDGET = b"baton-budget"


def post(app: str, status: dict[str, Any]) -> None:
    """Replaces what the board says of an application."""
    _internal_kv_put(app.encode(), json.dumps(status).encode(), overwrite=True, namespace=_SPACE)


def read(app: str) -> dict[str, Any] | None:
    """What the board says; None when nothing was posted."""
    text = _internal_kv_get(app.encode(), namespace=_SPACE)
    status: dict[str, Any] | None = json.loads(text) if text else None
    return status


def models_of(app: str) -> list[str]:
    """The models of an application with several, as their notices are named."""
    return sorted(key.decode().removeprefix(f"{app}:") for key in _internal_kv_list(f"{app}:".encode(), namespace=_SPACE))


def clear(app: str) -> None:
    """Takes the notice down, and forgets how many workers were wanted, what the scaler knew, and its part of a budget."""
    _internal_kv_del(app.encode(), namespace=_BUDGET)
    _internal_kv_del(app.encode(), namespace=_SPACE)
    _internal_kv_del(app.encode(), namespace=_WANTED)
    _internal_kv_del(app.encode(), namespace=_SCALER)


def keep_wanted(app: str, configured: dict[str, int], wanted: dict[str, int]) -> None:
    """How many workers each pool is to have, while the configuration says ``configured``."""
    kept = json.dumps({"configured": configured, "wanted": wanted})
    _internal_kv_put(app.encode(), kept.encode(), overwrite=True, namespace=_WANTED)


def kept_wanted(app: str, configured: dict[str, int]) -> dict[str, int] | None:
    """What was kept; None when nothing was, or under another configuration: that one's numbers are newer."""
    text = _internal_kv_get(app.encode(), namespace=_WANTED)
    kept = json.loads(text) if text else {}
    return kept["wanted"] if kept.get("configured") == configured else None


def keep_scaler(app: str, state: bytes) -> None:
    """What the autoscaler is to remember."""
    _internal_kv_put(app.encode(), state, overwrite=True, namespace=_SCALER)


def kept_scaler(app: str) -> bytes | None:
    """What it remembers; None for nothing."""
    state: bytes | None = _internal_kv_get(app.encode(), namespace=_SCALER)
    return state


def keep_entry(app: str, entry: bytes) -> None:
    """What a model has of a shared budget."""
    _internal_kv_put(app.encode(), entry, overwrite=True, namespace=_BUDGET)


def kept_entry(app: str) -> bytes | None:
    """What it has; None for nothing."""
    entry: bytes | None = _internal_kv_get(app.encode(), namespace=_BUDGET)
    return entry


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


def ask_for_role(app: str, worker: WorkerId, role: str) -> None:
    """Leaves the wish that this worker serve the pool of that role. It is answered once, and forgotten."""
    _internal_kv_del(_wish(app, worker), namespace=_ANSWERS)
    _internal_kv_put(_wish(app, worker), role.encode(), overwrite=True, namespace=_ROLES)


def asked_roles(app: str) -> dict[WorkerId, str]:
    """The roles somebody wants workers to have."""
    start = _wish(app, WorkerId(""))
    asked = {key: _internal_kv_get(key, namespace=_ROLES) for key in _internal_kv_list(start, namespace=_ROLES)}
    return {WorkerId(key[len(start) :].decode()): role.decode() for key, role in asked.items() if role}


def answer_role(app: str, worker: WorkerId, why_not: str) -> None:
    """It was done, or why it was not."""
    _internal_kv_put(_wish(app, worker), why_not.encode(), overwrite=True, namespace=_ANSWERS)
    _internal_kv_del(_wish(app, worker), namespace=_ROLES)


def role_answer(app: str, worker: WorkerId) -> str | None:
    """Why the wish was not carried out; empty: it was. None: it is not answered yet. Answered once."""
    answer = _internal_kv_get(_wish(app, worker), namespace=_ANSWERS)
    if answer is None:
        return None
    _internal_kv_del(_wish(app, worker), namespace=_ANSWERS)
    return str(answer.decode())


def _wish(app: str, worker: WorkerId) -> bytes:
    return f"{app}/{worker}".encode()
