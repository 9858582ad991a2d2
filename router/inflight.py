"""The router's own books of what it has asked of each worker and has not seen done: never stale, unlike a report."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from core.ids import LegId, RequestId, WorkerId
from router.arrivals import Arrival
from router.plan import SLACKS, Books


@dataclass(frozen=True, slots=True)
class Slack:
    """By how much a request may be held up while it decodes and keep its promised time per token."""

    token_s: float
    """Gained with each token behind the first."""
    lengths: Sequence[float]
    """Tokens it may make, ``SLACKS`` cases that are as likely as each other, the shortest first."""
    spent_s: float = 0.0
    """Lost from the beginning, to the hand-over."""

    def per_step_s(self, tokens: float) -> float:
        """So much longer each of its steps may take, of an answer of so many tokens."""
        return self.token_s - self.spent_s / max(1.0, tokens - 1.0)

    def seconds(self, tokens: float) -> float:
        """Of an answer of so many tokens."""
        return self.token_s * max(0.0, tokens - 1.0) - self.spent_s


@dataclass(slots=True)
class Work:
    """What one leg, or one that is planned, asks of a worker."""

    prefill_tokens: int = 0
    """Prompt tokens the worker takes on, cached there or not."""
    uncached_tokens: int = 0
    """Those it will have to compute, as predicted."""
    decode_tokens: int = 0
    """Context and output tokens to hold while decoding; 0 where it does not."""
    context_tokens: int = 0
    """Prompt and emitted tokens."""
    finishes_s: float | None = None
    """When it will probably be done, on the router's clock; None: it does not decode, or nobody knows."""

    slack: Slack | None = None
    """None: nothing is promised, or it does not decode."""
    stall_s: float = 0.0
    """For how long its prompt holds up whoever decodes there, as predicted."""
    arrival: Arrival | None = None
    """What it has to pull first; None: nothing."""

    @property
    def squares(self) -> int:
        """Of the tokens to compute; see ``StepWork``."""
        cached = self.context_tokens - self.uncached_tokens
        return self.context_tokens**2 - cached**2 if self.uncached_tokens else 0


@dataclass(slots=True)
class _Entry:
    worker: WorkerId
    work: Work
    number: int
    """In the order of coming."""
    answered: bool = False
    pending_tokens: int = 0
    made_tokens: int = 0
    is_handover: bool = False
    """It comes with its prompt computed, and has no token yet."""
    lengths: list[float] = field(default_factory=list)
    """Those of its slack, without those it has outgrown."""
    slacks_s: list[float] = field(default_factory=list)
    """One for each, as they stand on the shelf."""
    token_slacks_s: list[float] = field(default_factory=list)
    """Likewise."""
    late_s: float = 0.0
    """What they are more by there: ``stalled_s`` when it came."""


@dataclass(slots=True)
class _Shelf:
    """One worker's books."""

    prefill_tokens: int = 0
    decode_tokens: int = 0
    pending_tokens: int = 0
    legs: int = 0
    unanswered: int = 0
    uncached_tokens: int = 0
    squares: int = 0
    prompts: dict[LegId, int] = field(default_factory=dict)
    """Uncached tokens of the prompts to be computed, in the order in which they were sent."""
    head_since_s: float = 0.0
    decoding: int = 0
    context_tokens: int = 0
    finishes_s: list[float] = field(default_factory=list)
    slacks_s: list[float] = field(default_factory=list)
    token_slacks_s: list[float] = field(default_factory=list)
    stalled_s: float = 0.0
    promised: dict[int, _Entry] = field(default_factory=dict)
    """Those with slack, by number."""
    handovers: int = 0
    arrivals: list[Arrival] = field(default_factory=list)


_NOTHING = _Shelf()


class InFlight:
    """Outstanding work per worker. ``sent`` and ``ended`` come in pairs; ``ended`` twice is no error.

    ``changed`` has the workers whose books are other than when they were last taken out of it; whoever keeps copies does that.
    """

    def __init__(self) -> None:
        self._legs: dict[LegId, _Entry] = {}
        self._plans: dict[RequestId, _Entry] = {}
        self._shelves: dict[WorkerId, _Shelf] = {}
        self._numbers = itertools.count()
        self.changed: set[WorkerId] = set()

    def sent(self, leg: LegId, worker: WorkerId, work: Work, now: float) -> None:
        """A leg was sent."""
        self._legs[leg] = self._add(worker, work)
        if work.prefill_tokens:
            shelf = self._shelves[worker]
            if not shelf.prompts:
                shelf.head_since_s = now
            shelf.prompts[leg] = work.uncached_tokens

    def planned(self, request: RequestId, worker: WorkerId, work: Work) -> None:
        """A worker was chosen to decode once the prompt is done elsewhere. It counts at once: until the first of a burst have
        been prefilled, all of the burst would see the same idle worker. Replaces an earlier plan of the request."""
        self.unplanned(request)
        self._plans[request] = self._add(worker, work)

    def unplanned(self, request: RequestId) -> None:
        """The decode leg is being sent, or will not be."""
        self._drop(self._plans.pop(request, None))

    def made(self, leg: LegId, tokens: int, now: float) -> None:
        """The leg told so many tokens. With its first, its prompt is computed, and the worker's reports show what it holds."""
        entry = self._legs.get(leg)
        if entry is None:
            return
        shelf = self._shelves[entry.worker]
        if not entry.answered:
            entry.answered = True
            shelf.unanswered -= 1
            shelf.handovers -= entry.is_handover
            self._arrived(entry, shelf)
            shelf.pending_tokens -= entry.pending_tokens
            entry.pending_tokens = 0
            self._computed(leg, entry, shelf, now)
        if entry.work.decode_tokens:
            entry.made_tokens += tokens
            shelf.context_tokens += tokens
            if entry.lengths and entry.made_tokens > entry.lengths[0]:
                self._is_longer(entry, shelf)
        self.changed.add(entry.worker)

    def ended(self, leg: LegId, now: float) -> None:
        """The leg finished, failed, was refused or aborted."""
        entry = self._legs.pop(leg, None)
        if entry is not None:
            shelf = self._shelves[entry.worker]
            if not entry.answered:
                self._spare(leg, entry, shelf, now)
            self._computed(leg, entry, shelf, now)
            self._drop(entry)

    def _spare(self, leg: LegId, entry: _Entry, shelf: _Shelf, now: float) -> None:
        """What of its prompt was not computed holds nobody up. To those that came behind it, it counted as over."""
        is_first = leg == next(iter(shelf.prompts), None)
        spared_s = entry.work.stall_s - (now - shelf.head_since_s if is_first else 0.0)
        if spared_s <= 0.0:
            return
        shelf.stalled_s -= spared_s
        for number, other in reversed(shelf.promised.items()):
            if number <= entry.number:
                return
            slack = other.work.slack
            assert slack is not None
            self._take_slacks(other, shelf)
            other.late_s -= spared_s
            self._put_slacks(other, slack, shelf)

    def _computed(self, leg: LegId, entry: _Entry, shelf: _Shelf, now: float) -> None:
        """Nothing of its prompt is left to be computed."""
        if leg in shelf.prompts:
            if leg == next(iter(shelf.prompts)):
                shelf.head_since_s = now
            del shelf.prompts[leg]
            work = entry.work
            shelf.prefill_tokens -= work.prefill_tokens
            shelf.uncached_tokens -= work.uncached_tokens
            shelf.squares -= work.squares
            work.prefill_tokens = work.uncached_tokens = 0

    def _is_longer(self, entry: _Entry, shelf: _Shelf) -> None:
        """The answer has outgrown a likely length. It is one of the longer ones, or twice as long as it is, as far as anybody knows."""
        slack = entry.work.slack
        assert slack is not None
        longer = entry.lengths[bisect_left(entry.lengths, entry.made_tokens) :] or [2.0 * entry.made_tokens]
        entry.lengths = [longer[number * len(longer) // SLACKS] for number in range(SLACKS)]
        self._take_slacks(entry, shelf)
        self._put_slacks(entry, slack, shelf)

    def _put_slacks(self, entry: _Entry, slack: Slack, shelf: _Shelf) -> None:
        entry.slacks_s = [slack.seconds(length) + entry.late_s for length in entry.lengths]
        entry.token_slacks_s = [slack.per_step_s(length) for length in entry.lengths]
        for slack_s in entry.slacks_s:
            insort(shelf.slacks_s, slack_s)
        for slack_s in entry.token_slacks_s:
            insort(shelf.token_slacks_s, slack_s)

    def _take_slacks(self, entry: _Entry, shelf: _Shelf) -> None:
        for slack_s in entry.slacks_s:
            del shelf.slacks_s[bisect_left(shelf.slacks_s, slack_s)]
        for slack_s in entry.token_slacks_s:
            del shelf.token_slacks_s[bisect_left(shelf.token_slacks_s, slack_s)]

    def _arrived(self, entry: _Entry, shelf: _Shelf) -> None:
        """Nothing is left for it to pull."""
        if entry.work.arrival is not None:
            del shelf.arrivals[bisect_left(shelf.arrivals, entry.work.arrival)]
            entry.work.arrival = None

    def _add(self, worker: WorkerId, work: Work) -> _Entry:
        shelf = self._shelves.setdefault(worker, _Shelf())
        entry = _Entry(worker, work, next(self._numbers), pending_tokens=work.context_tokens)
        shelf.prefill_tokens += work.prefill_tokens
        shelf.uncached_tokens += work.uncached_tokens
        shelf.squares += work.squares
        shelf.decode_tokens += work.decode_tokens
        shelf.pending_tokens += entry.pending_tokens
        shelf.legs += 1
        shelf.unanswered += 1
        if work.decode_tokens:
            entry.is_handover = not work.prefill_tokens
            shelf.handovers += entry.is_handover
            shelf.decoding += 1
            shelf.context_tokens += work.context_tokens
        if work.arrival is not None:
            insort(shelf.arrivals, work.arrival)
        if work.finishes_s is not None:
            insort(shelf.finishes_s, work.finishes_s)
        shelf.stalled_s += work.stall_s  # its own prompt does not hold it up: its slack begins behind that
        if work.slack is not None:
            entry.lengths, entry.late_s = list(work.slack.lengths), shelf.stalled_s
            self._put_slacks(entry, work.slack, shelf)
            shelf.promised[entry.number] = entry
        self.changed.add(worker)
        return entry

    def _drop(self, entry: _Entry | None) -> None:
        if entry is None:
            return
        shelf, work = self._shelves[entry.worker], entry.work
        shelf.prefill_tokens -= work.prefill_tokens
        shelf.uncached_tokens -= work.uncached_tokens
        shelf.squares -= work.squares
        shelf.decode_tokens -= work.decode_tokens
        shelf.pending_tokens -= entry.pending_tokens
        shelf.legs -= 1
        shelf.unanswered -= not entry.answered
        shelf.handovers -= entry.is_handover and not entry.answered
        if work.decode_tokens:
            shelf.decoding -= 1
            shelf.context_tokens -= work.context_tokens + entry.made_tokens
        if work.finishes_s is not None:
            del shelf.finishes_s[bisect_left(shelf.finishes_s, work.finishes_s)]
        self._take_slacks(entry, shelf)
        shelf.promised.pop(entry.number, None)
        self._arrived(entry, shelf)
        self.changed.add(entry.worker)

    def books(self, worker: WorkerId) -> Books:
        """What predictions need, as a copy that stays as it is."""
        shelf = self._shelf(worker)
        return Books(
            shelf.unanswered,
            shelf.uncached_tokens,
            shelf.squares,
            shelf.head_since_s,
            next(iter(shelf.prompts.values()), 0),
            shelf.decoding,
            shelf.context_tokens,
            tuple(shelf.finishes_s),
            tuple(shelf.slacks_s),
            shelf.stalled_s,
            tuple(shelf.token_slacks_s),
            shelf.handovers,
            tuple(shelf.arrivals),
        )

    def prefill_tokens(self, worker: WorkerId) -> int:
        return self._shelf(worker).prefill_tokens

    def decode_tokens(self, worker: WorkerId) -> int:
        return self._shelf(worker).decode_tokens

    def pending_tokens(self, worker: WorkerId) -> int:
        """Context of legs that are planned, or have no token yet."""
        return self._shelf(worker).pending_tokens

    def legs(self, worker: WorkerId) -> int:
        """Legs sent or planned."""
        return self._shelf(worker).legs

    def unanswered(self, worker: WorkerId) -> int:
        """Legs sent or planned of which the worker has not told a token."""
        return self._shelf(worker).unanswered

    def forget(self, worker: WorkerId) -> None:
        """The worker is no member any more. What is planned for it still counts until it is planned elsewhere."""
        if not self._shelf(worker).legs:
            self._shelves.pop(worker, None)
        self.changed.discard(worker)

    def _shelf(self, worker: WorkerId) -> _Shelf:
        return self._shelves.get(worker, _NOTHING)

    def __len__(self) -> int:
        return len(self._legs)
