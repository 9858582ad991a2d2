"""What one request is to get, and how it comes from the gate, where it is known, to the dispatcher, where it counts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WantedService:
    """Whose request it is, what it is promised, and how soon it is served. Times are from its arrival; None: none promised."""

    tenant: str = "default"
    class_name: str = "default"
    priority: int = 0
    """The smaller goes first."""
    ttft_s: float | None = None
    tpot_s: float | None = None
    deadline_s: float | None = None
    weight: float = 1.0
    """The tenant's."""

    @property
    def has_objective(self) -> bool:
        """Whether anything is promised."""
        return self.ttft_s is not None or self.tpot_s is not None or self.deadline_s is not None

    @property
    def starts_within_s(self) -> float | None:
        """By when its first token has to be there, at the latest; None when that is not said."""
        return min((limit_s for limit_s in (self.ttft_s, self.deadline_s) if limit_s is not None), default=None)


ORDINARY = WantedService()
"""Of requests that did not come through a gate with objectives."""

_current: ContextVar[WantedService] = ContextVar("baton_service", default=ORDINARY)


@contextlib.contextmanager
def serving(service: WantedService) -> Iterator[None]:
    """Whatever is started within belongs to a request that is to get ``service``.

    A context variable, not a table by request id: ids are made far inside of vLLM's server, one HTTP request makes several (``n``,
    lists of prompts, turns with tools), and every task that vLLM starts for one inherits its context.
    """
    token = _current.set(service)
    try:
        yield
    finally:
        _current.reset(token)


def current_service() -> WantedService:
    """What the HTTP request that is being served here is to get."""
    return _current.get()
