"""The network that KV caches go over: every worker has one port, and what goes in or out of it goes one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.ids import WorkerId
from engine.sim_link import LinkRate
from simulation.clock import VirtualClock


@dataclass(frozen=True, slots=True)
class Port:
    """What a worker is connected with, each way. ``gbps`` in gigabits per second; 0 is without limit."""

    gbps: float = 200.0
    latency_s: float = 0.002
    """Of a transfer as a whole: agreeing on it, and on its end."""


class KVNetwork:
    """Ports as in ``engine.sim_link``, on both sides: many readers of one keeper wait for each other, too."""

    def __init__(self, clock: VirtualClock, port: Port, say_s: float) -> None:
        """``say_s`` is how long a word from worker to worker takes."""
        self.moved_bytes = 0
        """Of all transfers that were begun."""
        self._clock = clock
        self._port = port
        self._say_s = say_s
        self._in: dict[WorkerId, LinkRate] = {}
        self._out: dict[WorkerId, LinkRate] = {}
        self._cut: set[WorkerId] = set()

    def move(self, source: WorkerId, target: WorkerId, transfer_bytes: int, then: Callable[[], None]) -> None:
        """Has ``then`` happen when so many bytes have gone from one worker to the other."""
        now_s = self._clock.now()
        self.moved_bytes += transfer_bytes
        ends = (self._rate(self._out, source), self._rate(self._in, target))
        self._clock.later(max(rate.reserve(transfer_bytes, now_s) for rate in ends), then)

    def slow(self, worker: WorkerId, factor: float) -> None:
        """Has transfers that begin from now on go through its port so many times as slow as it usually is; 1 mends it."""
        for rates in (self._in, self._out):
            self._rate(rates, worker).change(self._port.gbps / factor)

    def cut(self, worker: WorkerId) -> None:
        """No transfer ends there, until it is mended."""
        self._cut.add(worker)

    def mend(self, worker: WorkerId) -> None:
        """Its port is as it was."""
        self._cut.discard(worker)

    def connects(self, source: WorkerId, target: WorkerId) -> bool:
        """Whether bytes come from one to the other now."""
        return source not in self._cut and target not in self._cut

    def say(self, then: Callable[[], None]) -> None:
        """Has ``then`` happen on another worker."""
        self._clock.later(self._say_s, then)

    def _rate(self, rates: dict[WorkerId, LinkRate], worker: WorkerId) -> LinkRate:
        return rates.setdefault(worker, LinkRate(self._port.gbps, self._port.latency_s))
