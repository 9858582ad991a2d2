"""What a scaler is told of a simulated cluster: what routers and workers of a real one would have counted by now."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from autoscaler.signals import NEWEST_S, Arrived, PoolSignals, Reading, TrafficSignals, spans_s
from simulation.record import Record
from simulation.router import SimRouter

_WINDOW_S = 60.0
"""Over which rates and means are taken."""


class Vitals:
    """Looked at every few seconds. ``records`` grows while the simulation runs."""

    def __init__(self, records: Sequence[Record], routers: Sequence[SimRouter]) -> None:
        self._records = records
        self._routers = routers
        self._read = 0
        self._looked_s: float | None = None
        self._arrived: deque[Record] = deque()
        self._computing: list[Record] = []
        self._decoding: list[Record] = []
        self._begun: deque[Record] = deque()
        """Those that have their first token."""
        self._ended: deque[Record] = deque()
        """Those that have the whole answer."""

    def look(self, now_s: float) -> tuple[TrafficSignals, PoolSignals, PoolSignals]:
        """Of all traffic, of prefill and of decode. Means of nobody are left out."""
        self._catch_up(now_s)
        computed, cached = sum(each.request.prompt_tokens for each in self._begun), sum(each.cached_tokens for each in self._begun)
        traffic = TrafficSignals(
            Reading(len(self._arrived) / (min(_WINDOW_S, now_s) or _WINDOW_S)),
            Reading(sum(now_s - record.arrival_s <= NEWEST_S for record in self._arrived) / NEWEST_S),
            _mean([record.request.prompt_tokens for record in self._arrived]),
            _mean([record.output_tokens for record in self._ended]),
            Reading(cached / computed) if computed else None,
            self._latest(now_s),
        )
        queues = [router.dispatcher.queue for router in self._routers]
        oldest_s = min((since_s for queue in queues if (since_s := queue.oldest_since_s) is not None), default=now_s)
        tokens = sum(queue.tokens for queue in queues)
        prefill = PoolSignals(Reading(float(tokens)), Reading(now_s - oldest_s), Reading(float(len(self._computing))))
        return traffic, prefill, PoolSignals(running=Reading(float(len(self._decoding))))

    def _latest(self, now_s: float) -> tuple[Arrived, ...]:
        """As a source that looked as long ago."""
        looked_s, self._looked_s = self._looked_s, now_s
        if looked_s is None:
            return ()
        spans = {over_s: [each for each in self._arrived if now_s - each.arrival_s < over_s] for over_s in spans_s(now_s - looked_s)}
        return tuple(Arrived(over_s, len(new), sum(each.request.prompt_tokens for each in new)) for over_s, new in spans.items())

    def _catch_up(self, now_s: float) -> None:
        """Everybody goes from one list to the next."""
        new = [self._records[number] for number in range(self._read, len(self._records))]
        self._read = len(self._records)
        self._arrived.extend(new)
        computing = [*self._computing, *new]
        begun = [record for record in computing if record.ttft_s is not None]
        self._begun.extend(begun)
        self._computing = [record for record in computing if record.ttft_s is None and record.ended_s is None]
        decoding = [*self._decoding, *begun]
        self._ended.extend(record for record in decoding if record.is_complete)
        self._decoding = [record for record in decoding if record.ended_s is None]
        _forget(self._arrived, lambda record: now_s - record.arrival_s)
        _forget(self._begun, lambda record: now_s - record.arrival_s - (record.ttft_s or 0.0))
        _forget(self._ended, lambda record: now_s - (record.ended_s or 0.0))


def _forget(records: deque[Record], age_s: Callable[[Record], float]) -> None:
    """Those before the window. They are nearly in order, and nearly is enough."""
    while records and age_s(records[0]) > _WINDOW_S:
        records.popleft()


def _mean(values: Sequence[int]) -> Reading | None:
    return Reading(sum(values) / len(values)) if values else None
