"""The legs of one router: whose each is, and what of it stands in the books of its worker."""

from __future__ import annotations

from collections.abc import Callable

from cluster.messages import AbortLegs, AddLeg, LegKind, LegTrace
from core.handle import KVHandle
from core.ids import LegId, WorkerId
from router import instructions as i
from router.entry import Entry
from router.foresight import Foresight
from router.workers import Workers


class Legs:
    """Those that were sent and have not ended. ``len`` counts them."""

    def __init__(self, workers: Workers, foresight: Foresight, clock: Callable[[], float]) -> None:
        self._workers = workers
        self._inflight = workers.inflight
        self._foresight = foresight
        self._clock = clock
        self._owners: dict[LegId, Entry] = {}

    def __len__(self) -> int:
        return len(self._inflight)

    def owner(self, leg: LegId) -> Entry | None:
        """The request it belongs to; None once it has ended here."""
        return self._owners.get(leg)

    def send(self, entry: Entry, order: i.SendLeg) -> bool:
        """Queues a leg for its worker. False: that was lost since it was chosen, and the leg is as good as refused. What is sent
        now would wait for a worker that may never come back."""
        self._owners[order.leg] = entry
        entry.kinds[order.leg] = order.kind
        epoch = self._workers.epoch(order.worker)
        if epoch is None:
            return False
        timeline, now_s = entry.timeline, self._clock()
        if order.kind is not LegKind.PREFILL:
            self._inflight.unplanned(entry.flow.request)
        self._inflight.sent(order.leg, order.worker, entry.work(order.kind, order.worker, now_s), now_s)
        self._foresight.sent(entry, order.worker, now_s)
        if order.kind is LegKind.DECODE:
            timeline.handed_off_s = now_s - timeline.began_s
        else:
            timeline.sent_s = now_s - timeline.began_s
            timeline.resumes += bool(order.emitted)
        handle = order.handle if order.handle is not None and self.can_be_read(entry, order.handle) else None
        if order.kind is LegKind.PREFILL or handle is None:
            entry.kept_until_s = None
        tokens, emitted = entry.context_tokens, list(order.emitted)
        trace = self._traced(entry, order, now_s)
        message = AddLeg(order.leg, epoch, order.kind, tokens, emitted, order.first_token_counts, handle, trace)
        self._workers.send(order.worker, message, entry.frames)
        return True

    def _traced(self, entry: Entry, order: i.SendLeg, now_s: float) -> LegTrace | None:
        track = entry.track
        if track is None:
            return None
        context = track.sent(order.leg, order.kind, order.worker, entry.timeline.attempts, len(order.emitted), now_s)
        return LegTrace(context, track.http.anchor.at_ns(now_s))

    def can_be_read(self, entry: Entry, handle: KVHandle) -> bool:
        """Whether the lease and the life of the worker that keeps the KV go on; if not, decode computes the prompt itself, at once."""
        if entry.kept_until_s is None:
            entry.kept_until_s = self._clock() + handle.expires_in_s
        return self._workers.epoch(handle.worker) == handle.epoch and self._clock() < entry.kept_until_s

    def ended(self, leg: LegId) -> None:
        """Nothing more is expected of a leg; should its worker say something all the same, it is told to stop."""
        self._inflight.ended(leg, self._clock())
        self._owners.pop(leg, None)

    def abort(self, leg: LegId, worker: WorkerId) -> None:
        """Ends a leg, or lets go of the KV it has left."""
        self.ended(leg)
        self._workers.send(worker, AbortLegs([leg]))

    def lost(self, entry: Entry, worker: WorkerId) -> bool:
        """Ends those that the request has there; whether there are any."""
        lost = [leg for leg, holder in entry.flow.legs.items() if holder == worker]
        for leg in lost:
            self.ended(leg)
        if lost:
            # Should it live, and only the connection be gone, it is told when that is back. A worker that is gone never hears it.
            self._workers.send(worker, AbortLegs(lost))
        return bool(lost)

    def all_ended(self, entry: Entry) -> None:
        """The request is done: nothing of it is sent, nor planned."""
        self._inflight.unplanned(entry.flow.request)
        for leg in entry.kinds:
            self.ended(leg)
