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
        self._clock = clock
        self._port = port
        self._say_s = say_s
        self._in: dict[WorkerId, LinkRate] = {}
        self._out: dict[WorkerId, LinkRate] = {}

    def move(self, source: WorkerId, target: WorkerId, transfer_bytes: int, then: Callable[[], None]) -> None:
        """Has ``then`` happen when so many bytes have gone from one worker to the other."""
        now_s = self._clock.now()
        ends = (self._rate(self._out, source), self._rate(self._in, target))
        self._clock.later(max(rate.reserve(transfer_bytes, now_s) for rate in ends), then)

    def say(self, then: Callable[[], None]) -> None:
        """Has ``then`` happen on another worker."""
        self._clock.later(self._say_s, then)

    def _rate(self, rates: dict[WorkerId, LinkRate], worker: WorkerId) -> LinkRate:
        return rates.setdefault(worker, LinkRate(self._port.gbps, self._port.latency_s))
