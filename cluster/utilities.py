"""What routers may call of a worker's engine beside legs."""

from __future__ import annotations

from cluster.messages import Answer, Call
from core.errors import EngineFailedError
from engine.base import Engine

_CALLABLE = frozenset({"get_supported_tasks", "reset_prefix_cache", "is_sleeping", "list_loras"})
"""A list, not a ban: utilities can load code, stop engines and write files."""


async def answer(engine: Engine, call: Call) -> Answer:
    """What came of it; an engine that fails is an answer, too."""
    if call.method not in _CALLABLE:
        return Answer(call.number, error=f"{call.method} cannot be called from a router")
    try:
        return Answer(call.number, await engine.utility(call.method, *call.args))
    except EngineFailedError as error:
        return Answer(call.number, error=error.reason)
