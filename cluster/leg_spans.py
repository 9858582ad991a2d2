"""What a worker tells of its traced legs, as spans below those of the router that asked for them.

    leg prefill | decode | whole     router/request_spans.py
      worker                         from its coming to its end here
        admission
        engine                       all of it that the engine had
          kv_pull

Times are put on the router's clock: see ``ClockGap``.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.clock_gap import ClockGap
from cluster.messages import AddLeg
from cluster.span_export import SpanExport, no_counts
from core.ids import LegId, RouterId, WorkerId
from core.metrics.of_workers import TRACE_SPANS
from core.metrics.tally import Counts
from core.trace import Anchor, Bits, Span, SpanKind, TraceContext, Value
from engine.base import Transfer


@dataclass(slots=True)
class _Watch:
    """One traced leg under way. Times are of the worker's monotonic clock."""

    add: AddLeg
    parent: TraceContext
    anchor: Anchor
    context: TraceContext
    engine: TraceContext
    admitted_s: float | None = None
    first_s: float | None = None
    pulls: list[tuple[float, Transfer]] = field(default_factory=list)
    tokens: int = 0
    attributes: dict[str, Value] = field(default_factory=dict)


class LegSpans:
    """``legs`` are those under way that are traced: while it is empty, there is nothing to be told of any.

    ``export`` None: tracing is off here, and no leg is traced, whatever routers ask for.
    """

    def __init__(
        self,
        worker: WorkerId,
        export: SpanExport | None = None,
        flush_timeout_s: float = 0.0,
        bits: Bits = random.getrandbits,
        unix_ns: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.legs: dict[LegId, _Watch] = {}
        self._flush_timeout_s = flush_timeout_s
        self._worker = worker
        self._export = export
        self._bits = bits
        self._unix_ns = unix_ns
        self._clock = clock
        self._gaps: dict[RouterId, ClockGap] = defaultdict(ClockGap)

    def came(self, router: RouterId, add: AddLeg) -> None:
        """A leg is asked for."""
        if add.trace is None or self._export is None:
            return
        unix_ns = self._unix_ns()
        gap_ns = self._gaps[router].saw(add.trace.sent_ns, unix_ns)
        context = add.trace.context.child(self._bits)
        anchor = Anchor(unix_ns - gap_ns, self._clock())
        self.legs[add.leg] = _Watch(add, add.trace.context, anchor, context, context.child(self._bits))

    def admitted(self, leg: LegId) -> dict[str, str] | None:
        """The engine gets it next; with which headers, if it is traced."""
        watch = self.legs.get(leg)
        if watch is None:
            return None
        watch.admitted_s = self._clock()
        return watch.engine.headers

    def pulled(self, transfer: Transfer) -> None:
        """Its engine has the KV it went for."""
        if (watch := self.legs.get(transfer.leg)) is not None:
            watch.pulls.append((self._clock(), transfer))

    def told(self, leg: LegId, tokens: int, cached_tokens: int | None) -> None:
        """The engine has made tokens of it."""
        if (watch := self.legs.get(leg)) is None:
            return
        watch.tokens += tokens
        if watch.first_s is None:
            watch.first_s = self._clock()
        if cached_tokens is not None:
            watch.attributes["baton.cached_tokens"] = cached_tokens

    def scheduled(self, leg: LegId, queue_s: float) -> None:
        """The engine has told how long it let it wait."""
        if (watch := self.legs.get(leg)) is not None:
            watch.attributes["baton.queue_s"] = queue_s

    def ended(self, leg: LegId, how: str, error: str | None = None) -> None:
        """Nothing more comes of it. Others than those traced, and those that have ended, are ignored."""
        watch = self.legs.pop(leg, None)
        if watch is not None and self._export is not None:
            self._export.put(self._spans(watch, how, error, self._clock()))

    def router_gone(self, router: RouterId) -> None:
        """It will not send anything any more."""
        self._gaps.pop(router, None)

    def counts(self) -> Counts:
        """What has become of its spans."""
        return no_counts(TRACE_SPANS) if self._export is None else self._export.counts(TRACE_SPANS)

    def close(self) -> None:
        """Sends what is left, or gives it up. Blocks for as long as may be flushed."""
        if self._export is not None:
            self._export.close(self._flush_timeout_s)

    def _spans(self, watch: _Watch, how: str, error: str | None, end_s: float) -> list[Span]:
        add, at_ns = watch.add, watch.anchor.at_ns
        came_ns, end_ns = at_ns(watch.anchor.clock_s), at_ns(end_s)
        said: dict[str, Value] = {
            "baton.worker": self._worker,
            "baton.leg.kind": add.kind,
            "baton.leg.ended": how,
            "baton.tokens": add.tokens,
        }
        spans = [Span("worker", watch.context, watch.parent.span_id, came_ns, end_ns, said, SpanKind.SERVER, error)]
        if watch.admitted_s is None:
            return [*spans, Span("admission", watch.engine, watch.context.span_id, came_ns, end_ns, {}, error=error)]
        admission, admitted_ns = watch.context.child(self._bits), at_ns(watch.admitted_s)
        spans.append(Span("admission", admission, watch.context.span_id, came_ns, admitted_ns))
        told: dict[str, Value] = {**watch.attributes, "gen_ai.usage.output_tokens": watch.tokens}
        if watch.first_s is not None:
            told["baton.first_token_s"] = watch.first_s - watch.admitted_s
        spans.append(Span("engine", watch.engine, watch.context.span_id, admitted_ns, end_ns, told, error=error))
        for pulled_s, transfer in watch.pulls:
            pull, begin_ns = watch.engine.child(self._bits), at_ns(max(watch.admitted_s, pulled_s - transfer.transfer_s))
            moved: dict[str, Value] = {"baton.transfer_bytes": transfer.transfer_bytes, "baton.transfer_s": transfer.transfer_s}
            spans.append(Span("kv_pull", pull, watch.engine.span_id, begin_ns, at_ns(pulled_s), moved))
        return spans
