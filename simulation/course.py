"""What a simulated cluster was like over time: looked at every so often."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from core.worker import Role
from simulation.elastic import ElasticCluster


class Moment(msgspec.Struct, frozen=True):
    """As it was ``at_s`` after the first request."""

    at_s: float
    offered: int
    """Requests so far."""
    waiting: int
    """Requests in the routers' queues."""
    open: int
    """Requests that have not ended, those included."""
    workers: dict[str, int]
    """Ready ones, by role."""
    busy: dict[str, float]
    """The part of the time since the moment before that they spent in steps, by role."""


class Course:
    """``moments`` grow while the simulation runs. ``busy_s`` is what all workers there ever were spent in steps."""

    def __init__(self, cluster: ElasticCluster, every_s: float, tell: Callable[[Moment], None]) -> None:
        """``tell`` is told of each."""
        self.moments: list[Moment] = []
        self._cluster = cluster
        self._every_s = every_s
        self._tell = tell
        self._seen_s: dict[str, float] = {}
        """Of each worker, its time in steps at the moment before."""
        self.busy_s: dict[str, float] = {str(role): 0.0 for role in Role}
        cluster.clock.later(0.0, self._look)

    def _look(self) -> None:
        cluster, now_s = self._cluster, self._cluster.clock.now()
        counts, spent_s = {str(role): 0 for role in Role}, {str(role): 0.0 for role in Role}
        for name, worker in cluster.workers.items():
            role = str(worker.card.role)
            counts[role] += 1
            busy_s = worker.engine.busy_until(now_s)
            spent_s[role] += busy_s - self._seen_s.get(name, 0.0)
            self._seen_s[name] = busy_s
        for role, seconds in spent_s.items():
            self.busy_s[role] += seconds
        busy = {role: min(1.0, seconds / (counts[role] * self._every_s)) if counts[role] else 0.0 for role, seconds in spent_s.items()}
        queues = sum(len(router.dispatcher.queue) for router in cluster.routers)
        moment = Moment(now_s, len(cluster.records), queues, sum(router.open_requests for router in cluster.routers), counts, busy)
        self.moments.append(moment)
        self._tell(moment)
        cluster.clock.later(self._every_s, self._look)
