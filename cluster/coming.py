"""Workers that are not ready and will be, as routers are told of them: whether it is worth their while to wait. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from cluster.lifecycle import WorkerRecord
from core.worker import Role, WorkerState


class Coming(msgspec.Struct, frozen=True):
    """Who will serve beside those that do."""

    workers: int = 0
    """How many are wanted and not ready: they start, wake, or are about to."""
    first_in_s: float | None = None
    """Until the first of them is probably ready, from the moment this is told; 0: any moment. None: nobody knows."""
    on_demand: bool = False
    """As many as it takes are started once there is something to do."""

    @property
    def anybody(self) -> bool:
        """Whether waiting for somebody makes sense."""
        return self.workers > 0 or self.on_demand


def coming(
    records: Iterable[WorkerRecord], wanted: Mapping[Role, int], start_s: Mapping[Role, float], on_demand: bool, now_s: float
) -> Coming:
    """``start_s`` is how long the newest start of each role took, as far as one was seen."""
    there = list(records)
    ready = Counter(record.role for record in there if record.state is WorkerState.READY)
    missing = {role: count - ready[role] for role, count in wanted.items() if count > ready[role]}
    starting = [record for record in there if record.state is WorkerState.STARTING and record.role in start_s]
    begun = [max(0.0, record.created_at_s + start_s[record.role] - now_s) for record in starting]
    to_begin = [seconds for role, seconds in start_s.items() if role in missing or on_demand]
    return Coming(sum(missing.values()), min(begun or to_begin, default=None), on_demand)
