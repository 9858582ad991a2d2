"""Where requests wait for a worker: who goes in, whose turn it is, and who has waited too long."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from core.ids import RequestId
from core.metrics.words import Why
from router import events as e
from router.awaited import Awaited
from router.early_refusal import refusal_text
from router.entry import Entry
from router.flow import Phase
from router.legs import Legs
from router.limits import Limits
from router.queue import RequestQueue
from router.reason import Reason
from router.service import WantedService
from router.timers import Later, Timer
from router.waiting import UNKNOWN, Rank, Waiting
from router.workers import Workers

_SWEEP_S = 0.25
"""How often a queue that is not empty is looked through, whatever is heard of workers."""
_PASSED_AT_MOST = 8
"""Waiting requests for which nobody has room before the search for a smaller one ends: each costs a decision."""
_PLACED = frozenset({Phase.PREFILLING, Phase.DECODING})


class WaitingRoom:
    """The queue with its clock. What happens to a request that waits is told with ``tell``, which may well end in here again."""

    def __init__(
        self,
        limits: Limits,
        entries: Mapping[RequestId, Entry],
        workers: Workers,
        legs: Legs,
        clock: Callable[[], float],
        later: Later,
        tell: Callable[[Entry, e.Event], None],
    ) -> None:
        """``entries`` are all requests of the router, waiting or not."""
        self.queue = RequestQueue(limits.queue)
        self.awaited = Awaited()
        self.on_trial: Entry | None = None
        """The one request that is tried although its next loss would be its last."""
        self._limits = limits
        self._entries = entries
        self._workers = workers
        self._legs = legs
        self._clock = clock
        self._later = later
        self._tell = tell
        self._sweep: Timer | None = None
        self._waking = False
        self._is_served = True
        """Whether somebody was there to give work to when that was last looked at."""

    # -- in and out ----------------------------------------------------------------------------------------------------

    def must_wait(self, entry: Entry) -> bool:
        """Whether it may not be tried now: one suspect at a time, and nobody passes those that have been passed often enough."""
        if entry.flow.is_suspect and self.on_trial is not None and self.on_trial is not entry:
            return True
        return entry.rank is Rank.NEW and not entry.is_turn and not self.queue.lets_pass

    def tries(self, entry: Entry) -> None:
        """It has a plan."""
        if entry.flow.is_suspect:
            self.on_trial = entry

    def enter(self, entry: Entry) -> None:
        """Into the queue, or, if it was just tried out of it, to the place there it had."""
        now = self._clock()
        if entry.waits_since_s is None:
            entry.waits_since_s = now
        self._look_who_serves(now)
        self.queue.enter(self._waiting(entry, entry.waits_since_s), now)
        if entry.entered_s is None:
            entry.entered_s = now
        self.end_trial(entry)  # nobody has room for it: others need not wait for it as well
        self._sweep_later()
        for loser in self.queue.surplus():  # perhaps this one
            self.refuse(loser.request, Reason(Why.DISPLACED, "requests that go first have filled the queue"))

    def _waiting(self, entry: Entry, since_s: float) -> Waiting:
        rank, service, limits = entry.rank, entry.service, self._limits.queue
        tokens = 0 if rank is Rank.HANDED_OFF else entry.context_tokens
        if rank is not Rank.NEW:
            return Waiting(entry.flow.request, rank, tokens, since_s, since_s + self._limits.give_up_after_s, service)
        held = not self._is_served
        if held:
            entry.counts_from_s = math.inf
        counts_from_s = None if held else entry.counts_from_s
        if held and self._is_anybody_coming:
            longest_s = limits.start_wait_s(service)
        else:  # who has waited for the first worker is not sent away because the time to the first token is up
            longest_s = limits.longest_wait_s(service) if counts_from_s is None else limits.max_wait_s
        until_s = (since_s if counts_from_s is None else max(since_s, counts_from_s)) + longest_s
        return Waiting(entry.flow.request, rank, tokens, since_s, until_s, service, entry.takes or UNKNOWN, counts_from_s, held)

    def _look_who_serves(self, now: float) -> None:
        """When the first worker is there, or the last one is gone, all that wait for it begin to wait anew."""
        anybody = self._workers.any_ready
        if anybody is self._is_served:
            return
        self._is_served = anybody
        self.queue.served_by(anybody, now)
        for waiting in sorted(self.queue.new, key=lambda waiting: waiting.since_s):
            if (entry := self._entries.get(waiting.request)) is not None:
                if anybody and entry.counts_from_s == math.inf:
                    entry.counts_from_s = now
                self.queue.enter(self._waiting(entry, waiting.since_s), now)

    def placed(self, entry: Entry) -> None:
        """It has been told its plan. In its turn out of the queue ``wake_one`` sees to that; else it may have passed some that wait."""
        if not entry.is_turn and entry.flow.phase in _PLACED:
            self.queue.placed(entry.flow.request, entry.service, entry.context_tokens)

    def leave(self, entry: Entry) -> None:
        """It is gone for good."""
        self.queue.leave(entry.flow.request, self._clock())
        self._count_wait(entry)

    def end_trial(self, entry: Entry) -> None:
        """If it was the suspect, it is none, or is gone: the next one may be tried."""
        if self.on_trial is entry:
            self.on_trial = None
            self.wake()

    # -- turns ---------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Places waiting requests, first come first served; those for whom nobody has room are passed, some of them, for a while."""
        if self._waking or not len(self.queue):
            return
        self._look_who_serves(self._clock())
        self._waking = True  # placing a request may end others, which calls here again
        passed = 0
        try:
            for waiting in self.queue.in_turn(self._clock()):
                entry = self._entries.get(waiting.request)
                if entry is None or waiting.request not in self.queue:
                    continue  # it ended while another was placed
                self.wake_one(entry)
                if waiting.request in self.queue:
                    passed += 1
                    if passed >= _PASSED_AT_MOST or not self.queue.lets_pass:
                        return
        finally:
            self._waking = False

    def wake_one(self, entry: Entry) -> None:
        """It is this request's turn. Stays in the queue where nobody has room."""
        kept = entry.flow.kept
        entry.is_turn = True
        self._tell(entry, e.Woken(kept is None or self._legs.can_be_read(entry, kept)))
        entry.is_turn = False
        if entry.flow.phase in _PLACED:
            self.queue.placed(entry.flow.request)
            self._count_wait(entry)

    def _look_through(self) -> None:
        """Ends what has waited too long, and tries again: nothing may be stuck because nobody said anything."""
        self._sweep = None
        self._look_who_serves(self._clock())
        for waiting in self.queue.overdue(self._clock()):
            if (entry := self._entries.get(waiting.request)) is not None:
                self._tell(entry, self._too_late(waiting))
        self.wake()
        if len(self.queue):
            self._sweep_later()

    def _sweep_later(self) -> None:
        if self._sweep is None:
            self._sweep = self._later(_SWEEP_S, self._look_through)

    def _count_wait(self, entry: Entry) -> None:
        if entry.entered_s is not None:
            entry.timeline.waited_s += self._clock() - entry.entered_s
            entry.entered_s = None

    @property
    def _is_anybody_coming(self) -> bool:
        return self.awaited.anybody or self._workers.any_to_reach

    # -- refusals ------------------------------------------------------------------------------------------------------

    def nobody(self, service: WantedService) -> str | None:
        """Why a new request that is to get ``service`` is not held until somebody serves, in words for its client. None: somebody does,
        or is coming in time, as far as can be told."""
        if self._workers.any_ready:
            return None
        longest_s = self._limits.queue.start_wait_s(service)
        if not self._is_anybody_coming:
            return "no worker is ready, and none is coming" if self.awaited.is_told else "no worker is known yet"
        if longest_s == 0:
            return "no worker is ready"
        first_in_s = self.awaited.first_in_s(self._clock())
        if first_in_s is None or first_in_s <= longest_s or self._workers.any_to_reach:
            return None
        return f"no worker is ready; the first is expected in {first_in_s:.0f} s, and a request waits for {longest_s:g} s at most"

    def full(self, requests: int, service: WantedService) -> Reason | None:
        """Why so many new requests cannot wait here, in words for their client."""
        self._look_who_serves(self._clock())
        return self.queue.full(self._clock(), requests, service)

    def retry_after_s(self) -> float:
        """When a client that is refused now should try again."""
        if not self._workers.any_ready:
            return self.awaited.first_in_s(self._clock()) or self._limits.retry_after_s
        return self.queue.retry_after_s(self._clock(), self._limits.retry_after_s)

    def refuse(self, request: RequestId, reason: str, retry_after_s: float | None = None) -> None:
        """There is no point in its waiting. Unknown ones are ignored."""
        if (entry := self._entries.get(request)) is not None:
            self._tell(entry, self.overloaded(reason, retry_after_s))

    def overloaded(self, reason: str, retry_after_s: float | None = None) -> e.GivenUp:
        """What a request is told that is refused for want of room."""
        wait_s = self.retry_after_s() if retry_after_s is None else retry_after_s
        return e.GivenUp(e.FailKind.OVERLOADED, refusal_text(reason, wait_s), wait_s)

    def _too_late(self, waiting: Waiting) -> e.GivenUp:
        waited_s = self._clock() - waiting.since_s
        if not self._workers.any_ready:
            return e.GivenUp(e.FailKind.UNAVAILABLE, f"no worker was ready for {waited_s:.1f} s")
        return self.overloaded(Reason(Why.WAITED, f"no worker had room for {waited_s:.1f} s"))
