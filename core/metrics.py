"""What Prometheus reads from a router. Names: ``baton_router_`` is the router's own, ``baton_worker_`` what a worker last reported to it.

Labels are workers, roles and what is predicted, never requests. docs/metrics.md says what each is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from core.ids import WorkerId
from core.worker import Role, WorkerLoad

_OF_WORKER = {
    "running_requests": "Requests in the engine's batch",
    "waiting_requests": "Requests in the engine's queue",
    "free_blocks": "KV blocks nobody holds",
    "leased_blocks": "KV blocks kept for a decode worker that has not read them yet",
    "stranded_blocks": "Leased KV blocks nobody can come for any more and that are not free yet",
}

ERROR_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
"""Sizes of relative errors of predictions."""


@dataclass(frozen=True, slots=True)
class PredictionNumbers:
    """How predictions of one quantity, for workers of one role, compare with what happened."""

    quantity: str
    role: str
    """Empty where it makes no difference."""
    counts: Sequence[int]
    """Predictions by size of their relative error: up to each of ``ERROR_BUCKETS``, and beyond the last."""
    sum: float
    """Of those sizes."""
    bias: float
    """Median relative error of the newest; above 0: too much was predicted."""
    typical: float
    """Median size of the newest ones' errors."""


@dataclass(frozen=True, slots=True)
class WorkerNumbers:
    """One worker as a router sees it."""

    worker: WorkerId
    role: Role
    load: WorkerLoad
    outstanding_legs: int


@dataclass(frozen=True, slots=True)
class RouterNumbers:
    """One router at one moment."""

    requests: int
    waiting_requests: int
    waiting_tokens: int
    workers: Sequence[WorkerNumbers]
    predictions: Sequence[PredictionNumbers] = ()


class RouterCollector(Collector):
    """Reads the numbers when Prometheus asks: nothing to keep up to date, and a worker that is gone is gone from here."""

    def __init__(self, look: Callable[[], RouterNumbers]) -> None:
        self._look = look

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: registering must not ask for numbers that are not there yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The present values."""
        now = self._look()
        yield GaugeMetricFamily("baton_router_requests", "Requests this router has and has not ended", now.requests)
        yield GaugeMetricFamily("baton_router_waiting_requests", "Those no worker has room for", now.waiting_requests)
        yield GaugeMetricFamily("baton_router_waiting_tokens", "Tokens to be computed for those", now.waiting_tokens)
        legs = GaugeMetricFamily("baton_worker_outstanding_legs", "Legs this router has there or plans", labels=("worker", "role"))
        families = {name: GaugeMetricFamily(f"baton_worker_{name}", words, labels=("worker", "role")) for name, words in _OF_WORKER.items()}
        for seen in now.workers:
            labels = (seen.worker, str(seen.role))
            legs.add_metric(labels, seen.outstanding_legs)
            load = seen.load
            values = (load.running, load.waiting, load.free_blocks, load.leased_blocks, load.stranded_blocks)
            for family, value in zip(families.values(), values, strict=True):
                family.add_metric(labels, value)
        yield legs
        yield from families.values()
        yield from _predictions(now.predictions)


def _predictions(checked: Sequence[PredictionNumbers]) -> Iterable[Metric]:
    labels = ("quantity", "role")
    sizes = HistogramMetricFamily("baton_prediction_error_ratio", "Relative errors of predictions, without sign", labels=labels)
    bias = GaugeMetricFamily("baton_prediction_bias_ratio", "Median relative error of the newest predictions", labels=labels)
    typical = GaugeMetricFamily("baton_prediction_median_error_ratio", "The same without sign", labels=labels)
    bounds = [*map(str, ERROR_BUCKETS), "+Inf"]
    for numbers in checked:
        of = (numbers.quantity, numbers.role)
        sizes.add_metric(of, [*zip(bounds, accumulate(map(float, numbers.counts)), strict=True)], numbers.sum)
        bias.add_metric(of, numbers.bias)
        typical.add_metric(of, numbers.typical)
    yield from (sizes, bias, typical)
