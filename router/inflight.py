"""The router's own books of what it has asked of each worker and has not seen done: never stale, unlike a report."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from core.ids import LegId, RequestId, WorkerId


@dataclass(slots=True)
class _Entry:
    worker: WorkerId
    prefill_tokens: int
    decode_tokens: int
    pending_tokens: int
    answered: bool = False


class InFlight:
    """Outstanding tokens per worker. ``sent`` and ``ended`` come in pairs; ``ended`` twice is no error."""

    def __init__(self) -> None:
        self._legs: dict[LegId, _Entry] = {}
        self._plans: dict[RequestId, _Entry] = {}
        self._prefill: dict[WorkerId, int] = defaultdict(int)
        self._decode: dict[WorkerId, int] = defaultdict(int)
        self._pending: dict[WorkerId, int] = defaultdict(int)
        self._count: dict[WorkerId, int] = defaultdict(int)
        self._unanswered: dict[WorkerId, int] = defaultdict(int)

    def sent(self, leg: LegId, worker: WorkerId, prefill_tokens: int, decode_tokens: int, context_tokens: int) -> None:
        """A leg was sent: prompt tokens to compute, context plus output tokens to hold while decoding, and the context alone."""
        self._legs[leg] = self._add(_Entry(worker, prefill_tokens, decode_tokens, context_tokens))

    def planned(self, request: RequestId, worker: WorkerId, decode_tokens: int, context_tokens: int) -> None:
        """A worker was chosen to decode once the prompt is done elsewhere. It counts at once: until the first of a burst have
        been prefilled, all of the burst would see the same idle worker. Replaces an earlier plan of the request."""
        self.unplanned(request)
        self._plans[request] = self._add(_Entry(worker, 0, decode_tokens, context_tokens))

    def unplanned(self, request: RequestId) -> None:
        """The decode leg is being sent, or will not be."""
        self._drop(self._plans.pop(request, None))

    def prompt_done(self, leg: LegId) -> None:
        """The leg's first token came: its prompt is computed, and the worker's reports show what it holds."""
        entry = self._legs.get(leg)
        if entry is not None and not entry.answered:
            entry.answered = True
            self._unanswered[entry.worker] -= 1
            self._prefill[entry.worker] -= entry.prefill_tokens
            self._pending[entry.worker] -= entry.pending_tokens
            entry.prefill_tokens = entry.pending_tokens = 0

    def ended(self, leg: LegId) -> None:
        """The leg finished, failed, was refused or aborted."""
        self._drop(self._legs.pop(leg, None))

    def _add(self, entry: _Entry) -> _Entry:
        self._prefill[entry.worker] += entry.prefill_tokens
        self._decode[entry.worker] += entry.decode_tokens
        self._pending[entry.worker] += entry.pending_tokens
        self._count[entry.worker] += 1
        self._unanswered[entry.worker] += 1
        return entry

    def _drop(self, entry: _Entry | None) -> None:
        if entry is not None:
            self._prefill[entry.worker] -= entry.prefill_tokens
            self._decode[entry.worker] -= entry.decode_tokens
            self._pending[entry.worker] -= entry.pending_tokens
            self._count[entry.worker] -= 1
            self._unanswered[entry.worker] -= not entry.answered

    def prefill_tokens(self, worker: WorkerId) -> int:
        return self._prefill.get(worker, 0)

    def decode_tokens(self, worker: WorkerId) -> int:
        return self._decode.get(worker, 0)

    def pending_tokens(self, worker: WorkerId) -> int:
        """Context of legs that are planned, or have no token yet."""
        return self._pending.get(worker, 0)

    def legs(self, worker: WorkerId) -> int:
        """Legs sent or planned."""
        return self._count.get(worker, 0)

    def unanswered(self, worker: WorkerId) -> int:
        """Legs sent or planned of which the worker has not told a token."""
        return self._unanswered.get(worker, 0)

    def forget(self, worker: WorkerId) -> None:
        """The worker is no member any more. What is planned for it still counts until it is planned elsewhere."""
        if not self._count.get(worker):
            for books in (self._prefill, self._decode, self._pending, self._count, self._unanswered):
                books.pop(worker, None)

    def __len__(self) -> int:
        return len(self._legs)
