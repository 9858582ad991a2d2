"""Adapters that workers have been sent requests for and will have loaded soon: what a burst goes by. Pure; told the time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set

from core.ids import WorkerId

_MOST = 4096


class AdapterPromises:
    """Each holds for ``lasts_s``: by then the worker has told of it, or has given its slot to another one."""

    def __init__(self, lasts_s: float = 5.0) -> None:
        self._lasts_s = lasts_s
        self._until_s: OrderedDict[tuple[str, WorkerId], float] = OrderedDict()
        """Oldest first."""

    def made(self, worker: WorkerId, adapter: str, now: float) -> None:
        """A request with it was sent there."""
        self._until_s.pop((adapter, worker), None)
        self._until_s[adapter, worker] = now + self._lasts_s
        while len(self._until_s) > _MOST or next(iter(self._until_s.values())) <= now:
            self._until_s.popitem(last=False)

    def broken(self, worker: WorkerId, adapter: str) -> None:
        """The worker refused it. Unknown ones are ignored."""
        self._until_s.pop((adapter, worker), None)

    def forget(self, worker: WorkerId) -> None:
        """The worker is gone."""
        for key in [key for key in self._until_s if key[1] == worker]:
            del self._until_s[key]

    def of(self, adapter: str, now: float) -> Set[WorkerId]:
        """Who has been promised it."""
        return {worker for (name, worker), until_s in self._until_s.items() if name == adapter and until_s > now}
