"""Spans on their way out: nothing waits for whoever takes them, nothing grows without bound, and what is lost is counted."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from cluster.span_export import SpanExport, no_counts
from core.metrics.of_requests import TRACE_SPANS
from core.trace import Span, TraceContext

SPAN = Span("x", TraceContext("a" * 32, "b" * 16), "", 0, 1)


def counted(export: SpanExport) -> tuple[float, ...]:
    """Exported, dropped, failed."""
    return tuple(cell.value for cell in export.counts(TRACE_SPANS).cells.values())


def test_all_that_was_put_is_sent() -> None:
    """In order, in batches, the rest of them at the end."""
    batches: list[int] = []

    def send(spans: Sequence[Span]) -> bool:
        batches.append(len(spans))
        return True

    export = SpanExport(send)
    for _ in range(150):
        export.put([SPAN] * 10)
    export.close(10.0)
    assert (sum(batches), max(batches)) == (1500, 512)
    assert counted(export) == (1500, 0, 0)
    export.put([SPAN])
    export.close(10.0)
    assert counted(export) == (1500, 1, 0)


@pytest.mark.parametrize("raises", [True, False])
def test_what_is_not_taken_is_counted(raises: bool) -> None:
    """Whether the collector says no or whatever else goes wrong; the next batch is tried again."""
    answers = [False, True]

    def send(spans: Sequence[Span]) -> bool:
        answer = answers.pop(0)
        if not answer and raises:
            raise OSError("no route")
        return answer

    export = SpanExport(send)
    export.put([SPAN] * 600)
    export.close(10.0)
    assert counted(export) == (88, 0, 512)


def test_a_collector_that_does_not_answer() -> None:
    """Putting never waits; beyond the bound spans are dropped; and neither does closing wait for longer than it is told."""
    sending, answers = threading.Event(), threading.Event()

    def send(spans: Sequence[Span]) -> bool:
        sending.set()
        answers.wait()
        return False

    export = SpanExport(send, most=100, stop_sending=answers.set)
    export.put([SPAN])
    assert sending.wait(10.0)
    for _ in range(30):
        export.put([SPAN] * 10)
    assert counted(export) == (0, 200, 0)
    export.close(0.0)  # has the one under way return, too
    export._thread.join(10.0)
    assert counted(export) == (0, 200, 101)


def test_where_tracing_is_off() -> None:
    """The metric is there all the same."""
    assert [cell.value for cell in no_counts(TRACE_SPANS).cells.values()] == [0, 0, 0]
