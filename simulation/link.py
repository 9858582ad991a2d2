"""Messages between routers and simulated workers: they arrive in order, a little later, and as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cluster.messages import FromRouter, FromWorker, Pulse, StepOutputs
from core.ids import RouterId
from core.worker import WorkerCard, WorkerLoad
from simulation.clock import VirtualClock

ToWorker = Callable[[RouterId, FromRouter, Sequence[Any]], None]
OnMessage = Callable[["SimLink", FromWorker, Sequence[Any]], None]


class SimLink:
    """What ``router.link.WorkerLink`` is to its router, always up. ``delay_s`` is one way."""

    def __init__(
        self, card: WorkerCard, router: RouterId, clock: VirtualClock, delay_s: float, to_worker: ToWorker, on_message: OnMessage
    ) -> None:
        self.card = card
        self.load = WorkerLoad(free_blocks=card.facts.num_blocks, num_blocks=card.facts.num_blocks)
        self.up = True
        self._router = router
        self._clock = clock
        self._delay_s = delay_s
        self._to_worker = to_worker
        self._on_message = on_message

    def send(self, message: FromRouter, frames: Sequence[Any] = ()) -> None:
        """To the worker."""
        self._clock.later(self._delay_s, lambda: self._to_worker(self._router, message, frames))

    def tell(self, message: FromWorker, frames: Sequence[Any] = ()) -> None:
        """From the worker."""
        self._clock.later(self._delay_s, lambda: self._arrived(message, frames))

    def _arrived(self, message: FromWorker, frames: Sequence[Any]) -> None:
        if isinstance(message, StepOutputs | Pulse):
            self.load = message.load
        self._on_message(self, message, frames)
