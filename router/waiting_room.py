"""Where requests wait for a worker: who goes in, whose turn it is, and who has waited too long."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from core.ids import RequestId
from core.metrics.words import Why
from router import events as e
from router.early_refusal import refusal_text
from router.entry import Entry
from router.flow import Phase
from router.legs import Legs
from router.limits import Limits
from router.queue import RequestQueue
from router.reason import Reason
from router.service import WantedService
from router.timers import Later, Timer
from router.waiting import Rank, Waiting
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
        rank = entry.rank
        if entry.waits_since_s is None:
            entry.waits_since_s = now
        longest_s = self._limits.queue.longest_wait_s(entry.service) if rank is Rank.NEW else self._limits.give_up_after_s
        tokens = 0 if rank is Rank.HANDED_OFF else entry.context_tokens
        since_s = entry.waits_since_s
        self.queue.enter(Waiting(entry.flow.request, rank, tokens, since_s, since_s + longest_s, entry.service), now)
        if entry.entered_s is None:
            entry.entered_s = now
        self.end_trial(entry)  # nobody has room for it: others need not wait for it as well
        self._sweep_later()
        for loser in self.queue.surplus():  # perhaps this one
            self.refuse(loser.request, Reason(Why.DISPLACED, "requests that go first have filled the queue"))

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

    # -- refusals ------------------------------------------------------------------------------------------------------

    def full(self, requests: int, service: WantedService) -> Reason | None:
        """Why so many new requests cannot wait here, in words for their client."""
        return self.queue.full(self._clock(), requests, service)

    def retry_after_s(self) -> float:
        """When a client that is refused now should try again."""
        if not self._workers.any_ready:
            return self._limits.retry_after_s
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
