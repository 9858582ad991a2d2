"""The workers of one router: its links to them, its books of what it sent them, and who is known to be full."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.messages import FromRouter
from core.ids import Epoch, WorkerId
from core.worker import WorkerState
from router.inflight import InFlight
from router.limits import Limits
from router.link import WorkerLink
from router.plan import View, WorkerView


class Workers:
    """Whom legs can be sent to."""

    def __init__(self, limits: Limits) -> None:
        self.inflight = InFlight()
        self._limits = limits
        self._links: dict[WorkerId, WorkerLink] = {}
        self._refused: dict[WorkerId, str] = {}
        """Who refused something for want of room, until it is heard to have more. A load report is no such news: it is old."""

    def enter(self, link: WorkerLink) -> None:
        """A link was opened. It may not be up yet."""
        self._links[link.card.worker] = link

    def leave(self, worker: WorkerId) -> None:
        """A worker is no member any more."""
        self._links.pop(worker, None)
        self._refused.pop(worker, None)

    def refused(self, worker: WorkerId, reason: str) -> None:
        """A worker had no room."""
        self._refused[worker] = f"it refused: {reason}"

    def has_room_again(self, worker: WorkerId) -> None:
        """Something of a worker ended, or it has spoken for itself."""
        self._refused.pop(worker, None)

    def epoch(self, worker: WorkerId) -> Epoch | None:
        """The present life of a worker that can be reached; None for the others."""
        link = self._links.get(worker)
        return link.card.epoch if link is not None and link.up else None

    def send(self, worker: WorkerId, message: FromRouter, frames: Sequence[bytes] = ()) -> None:
        """Queues a message; one for a worker that is no member is dropped."""
        link = self._links.get(worker)
        if link is not None:
            link.send(message, frames)

    @property
    def any_ready(self) -> bool:
        """Whether anybody can be reached that takes new requests, with room or without."""
        return any(link.up and link.card.state is WorkerState.READY for link in self._links.values())

    def view(self) -> View:
        """Those that can be reached, as this router sees them now."""
        return {worker: self._seen(link) for worker, link in self._links.items() if link.up}

    def _seen(self, link: WorkerLink) -> WorkerView:
        worker, books, bounds = link.card.worker, self.inflight, self._limits.of(link.card)
        return WorkerView(
            link.card,
            link.load,
            books.prefill_tokens(worker),
            books.decode_tokens(worker),
            books.legs(worker),
            books.pending_tokens(worker),
            bounds.max_prefill_tokens,
            bounds.headroom_tokens,
            self._refused.get(worker, ""),
        )
