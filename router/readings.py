"""All that a router tells Prometheus at one moment: what it has counted, and what it has now."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.span_export import SpanExport, no_counts
from core.metrics import of_requests as m
from core.metrics.predictions import prediction_readings
from core.metrics.tally import Levels, Reading
from router.dispatcher import Dispatcher


def readings(dispatcher: Dispatcher, spans: SpanExport | None = None) -> Sequence[Reading]:
    """In the catalogue's words."""
    queue = dispatcher.queue
    legs = Levels(m.OUTSTANDING_LEGS)
    for worker, seen in dispatcher.view().items():
        legs.set(seen.legs, worker, seen.card.role)
    return (
        *dispatcher.tally.readings(),
        Levels(m.ROUTER_REQUESTS).set(len(dispatcher)),
        Levels(m.DECODING_REQUESTS).set(dispatcher.decoding),
        Levels(m.WAITING_REQUESTS).set(len(queue)),
        Levels(m.WAITING_TOKENS).set(queue.tokens),
        Levels(m.OLDEST_WAITING).set(dispatcher.oldest_waiting_s),
        legs,
        no_counts(m.TRACE_SPANS) if spans is None else spans.counts(m.TRACE_SPANS),
        *prediction_readings(dispatcher.prediction_numbers),
    )
