"""A worker's metrics listener: what it has counted, and what its engine tells by itself, all with its name and role."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from cluster.metrics_listener import MetricsListener
from core.metrics.exposition import LabelledCollector, family_of
from core.worker import Role

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from cluster.runtime import WorkerRuntime


def worker_listener(runtime: WorkerRuntime, role: Callable[[], Role], host: str) -> MetricsListener:
    """Not open; ``role`` is asked for at every scrape.

    One in the worker, not the routers passing it on: there may be ten of those, and each would tell of a thousand workers what one
    scrape of each of these says once; and a worker that no router can reach can still be looked at.
    """

    def look() -> Iterable[Metric]:
        yield from map(family_of, runtime.readings)
        yield from runtime.engine_metrics()

    return MetricsListener(LabelledCollector(look, lambda: {"worker": runtime.worker, "role": str(role())}), host)
