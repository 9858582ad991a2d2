"""The workers of one router: its links to them, its books of what it sent them, and who is known to be full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.messages import FromRouter
from core.ids import Epoch, WorkerId
from core.worker import Role, WorkerCard, WorkerLoad, WorkerState
from router.inflight import InFlight
from router.limits import Limits
from router.link import WorkerLink
from router.plan import View, WorkerView
from router.sight import Sight

_TRIED_AGAIN_AFTER_S = 1.0
_ANY_NUMBER = 64


@dataclass(slots=True)
class Refusal:
    """What is known of a worker that had no room. Believed until something changes; then it is offered little at a time, or all
    that wait would be sent to it at every sign of life."""

    reason: str
    load: WorkerLoad
    """Its load then."""
    at_s: float
    believed: bool = True
    open_offers: int = 1
    """How many legs without an answer it may have, once it is not believed any more."""

    def is_outdated(self, load: WorkerLoad, now: float) -> bool:
        """Whether the worker has less to do than it had, or nothing was heard of that for a while."""
        less = load.running + load.waiting < self.load.running + self.load.waiting or load.free_blocks > self.load.free_blocks
        return less or now - self.at_s >= _TRIED_AGAIN_AFTER_S


class Workers:
    """Whom legs can be sent to."""

    def __init__(self, limits: Limits) -> None:
        self.inflight = InFlight()
        self._limits = limits
        self._links: dict[WorkerId, WorkerLink] = {}
        self._refusals: dict[WorkerId, Refusal] = {}
        self._seen: dict[WorkerId, WorkerView] = {}
        self._cut_off: set[WorkerId] = set()
        """Members that were lost, and have not been heard since."""

    def enter(self, link: WorkerLink) -> None:
        """A link was opened. It may not be up yet."""
        self._links[link.card.worker] = link

    def leave(self, worker: WorkerId) -> None:
        """A worker is no member any more."""
        self._links.pop(worker, None)
        self._refusals.pop(worker, None)
        self._seen.pop(worker, None)
        self._cut_off.discard(worker)

    def lost(self, worker: WorkerId) -> None:
        """A member cannot be reached any more."""
        if worker in self._links:
            self._cut_off.add(worker)

    def is_back(self, worker: WorkerId) -> bool:
        """A message of it has come; whether that is the first since it was lost."""
        if worker not in self._cut_off:
            return False
        self._cut_off.remove(worker)
        return True

    @property
    def all_up(self) -> bool:
        """Whether every member can be reached."""
        return all(link.up for link in self._links.values())

    def refused(self, worker: WorkerId, reason: str, now: float) -> None:
        """A worker had no room."""
        link = self._links.get(worker)
        if link is not None:
            self._refusals[worker] = Refusal(f"it refused: {reason}", link.load, now)

    def leg_ended(self, worker: WorkerId) -> None:
        """Something of ours that a worker had is done: there is room for one more."""
        if (refusal := self._refusals.get(worker)) is not None:
            refusal.believed = False

    def spoke(self, worker: WorkerId, now: float) -> bool:
        """A worker has reported its load; whether that is news to those who wait for it."""
        refusal, link = self._refusals.get(worker), self._links.get(worker)
        if refusal is None or link is None:
            return True
        if refusal.believed and refusal.is_outdated(link.load, now):
            refusal.believed = False
        return not refusal.believed

    def accepted(self, worker: WorkerId) -> None:
        """A worker has begun with a leg: twice as many offers may be open next, and after some rounds any number."""
        refusal = self._refusals.get(worker)
        if refusal is not None and not refusal.believed:
            refusal.open_offers *= 2
            if refusal.open_offers > _ANY_NUMBER:
                del self._refusals[worker]

    def role(self, worker: WorkerId) -> Role | None:
        """What a member is offered for; None for who is none."""
        link = self._links.get(worker)
        return link.card.role if link is not None else None

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
    def cards(self) -> list[WorkerCard]:
        """All members, reachable or not."""
        return [link.card for link in self._links.values()]

    @property
    def unreachable(self) -> list[WorkerCard]:
        """Members that nothing can be sent to now."""
        return [link.card for link in self._links.values() if not link.up]

    @property
    def any_members(self) -> bool:
        """Whether there is anybody, reachable or not."""
        return bool(self._links)

    @property
    def any_to_reach(self) -> bool:
        """Whether anybody takes new requests, as the controller has it, who cannot be reached: not yet, or not now."""
        return any(not link.up and link.card.state is WorkerState.READY for link in self._links.values())

    @property
    def any_ready(self) -> bool:
        """Whether anybody can be reached that takes new requests, with room or without."""
        return any(link.up and link.card.state is WorkerState.READY for link in self._links.values())

    def view(self) -> View:
        """Those that can be reached, as this router sees them now. There may be a thousand: each is looked at when it is asked for."""
        return Sight({worker: link for worker, link in self._links.items() if link.up}, self._sees)

    def _sees(self, link: WorkerLink) -> WorkerView:
        """What has not changed is not made anew."""
        worker, changed = link.card.worker, self.inflight.changed
        seen = self._seen.get(worker)
        if (
            seen is None
            or seen.load is not link.load
            or seen.card is not link.card
            or worker in changed
            or seen.refused != self._why_not(worker)
        ):
            changed.discard(worker)
            self._seen[worker] = seen = self._look(link)
        return seen

    def _look(self, link: WorkerLink) -> WorkerView:
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
            self._why_not(worker),
            books.books(worker),
        )

    def _why_not(self, worker: WorkerId) -> str:
        refusal = self._refusals.get(worker)
        if refusal is None:
            return ""
        if refusal.believed:
            return refusal.reason
        offers = self.inflight.unanswered(worker)
        return f"{offers} offers since it refused are not answered" if offers >= refusal.open_offers else ""
