"""One simulated router: the production dispatcher with everything that it decides by, and a record of what its clients get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from core.ids import RequestId
from router.dispatcher import Dispatcher
from router.service import ORDINARY, WantedService, serving
from simulation.clock import VirtualClock
from simulation.record import Record
from simulation.stand_ins import Output, Request, Sampling, Tokens
from simulation.traces import TraceRequest

ROUTER_GONE = "its router ended"


class SimRouter:
    """``dispatcher`` must deliver to ``deliver``. ``open_requests`` have not ended."""

    def __init__(self, clock: VirtualClock, max_tokens: int, service: WantedService = ORDINARY) -> None:
        """``max_tokens`` is what every client allows: how long its answer will be, nobody but the engine knows. ``service`` is what
        it is promised."""
        self.dispatcher: Dispatcher
        self.is_up = True
        self.records: list[Record] = []
        self._clock = clock
        self._max_tokens = max_tokens
        self._service = service
        self._open: dict[str, Record] = {}

    @property
    def open_requests(self) -> int:
        return len(self._open)

    def submit(self, name: str, trace: TraceRequest) -> Record:
        """A client asks. As at the gate, it is refused at once while the queue is full."""
        record = Record(trace, self._clock.now())
        service = replace(self._service, tenant=trace.tenant or self._service.tenant)
        refused = self.dispatcher.refusal(service)
        if refused is not None:
            record.failure, record.ended_s = refused[0], self._clock.now()
            return record
        self._open[name] = record
        sampling = Sampling(max(self._max_tokens, trace.output_tokens))
        request: Any = Request(name, trace, Tokens(trace.prompt_tokens), sampling, self._clock.now())
        with serving(service):
            self.dispatcher.add(request)
        return record

    def go_down(self) -> None:
        """Its process ends: clients lose what they had open, and workers end what they did for them."""
        self.is_up = False
        cut, self._open = self._open, {}
        for record in cut.values():
            record.failure, record.ended_s = ROUTER_GONE, self._clock.now()
        self.dispatcher.abort([RequestId(name) for name in cut])

    def deliver(self, outputs: Sequence[Any]) -> None:
        """What the dispatcher has for clients."""
        now_s = self._clock.now()
        for output in outputs:
            record = self._open.get(output.request_id)
            if record is None:
                continue
            if output.new_token_ids:
                record.came(len(output.new_token_ids), now_s)
            if isinstance(output, Output):
                if output.prefill_stats is not None:
                    record.cached_tokens = output.prefill_stats.num_cached_tokens
                record.paused(output.longest_gap_s)
            if output.finish_reason is not None:
                del self._open[output.request_id]
                record.ended_s = now_s
                record.request = replace(record.request, block_hashes=())  # of a million requests they would be gigabytes
                self._close(output.request_id, record)

    def _close(self, name: str, record: Record) -> None:
        failure = self.dispatcher.take_failure(RequestId(name))
        if failure is not None:
            record.failure = failure.reason
        timelines = self.dispatcher.timelines.of(name)
        if timelines and timelines[-1].decode_worker is not None:
            record.was_split = timelines[-1].was_split
            record.losses = timelines[-1].losses
