"""Finding a request its workers: asks the balancer, and says what the request's flow is to be told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice

from core.ids import WorkerId
from core.worker import WorkerState
from router import events as e
from router import instructions as i
from router.balancer.balancer import Balancer
from router.early_refusal import Predicted, early_refusal, never_in_time
from router.entry import Entry
from router.foresight import Foresight
from router.plan import Ask, Decision, Plan, Scored, View, WorkerView
from router.room import no_room_to_prefill
from router.waiting import UNKNOWN, Rank, Waiting
from router.waiting_room import WaitingRoom
from router.workers import Workers

_AGAIN_S = 0.05
"""Whoever waits by choice, for a worker that is full or for one on which it does no harm, is decided on again after so long, or when a full
one has room: workers speak a thousand times per second, and every decision costs the router part of a millisecond."""
_LOOKED_AT = 16
"""Of so many workers is asked what all are told alike; a thousand would take longer to look at than the decision itself."""
_LIKELY = 0.5
"""Nobody who keeps a promise with such a chance is refused for it."""
_HARMLESS = 0.1
"""Promises of others that one may break which would be refused otherwise."""
_BEHIND = Decision(None, (), {}, "others wait already, and have been passed often enough")


class Placing:
    """Writes down what it decides, in the request's timeline and the books of the worker that will decode."""

    def __init__(
        self, balancer: Balancer, foresight: Foresight, workers: Workers, room: WaitingRoom, clock: Callable[[], float], *, hopeless: bool
    ) -> None:
        """``hopeless``: requests whose promise cannot be kept are refused."""
        self._balancer = balancer
        self._foresight = foresight
        self._workers = workers
        self._room = room
        self._clock = clock
        self._refuses_hopeless = hopeless

    def decide(self, entry: Entry, order: i.AskPlan) -> e.Planned | e.NoRoom | e.GivenUp:
        """A plan, or why there is none. May have another request refused in place of this one."""
        if order.keeper is None:
            entry.held = None
        self._workers.inflight.unplanned(entry.flow.request)
        entry.timeline.losses = entry.flow.losses_ever
        view = self._workers.view()
        if not view and entry.rank is Rank.NEW and not self._workers.any_members and (nobody := self._room.nobody(entry.service)):
            return e.GivenUp(e.FailKind.UNAVAILABLE, nobody, self._room.retry_after_s())
        if entry.flow.unable and self._nobody_is_able(entry, view):
            return e.GivenUp(e.FailKind.ABSENT, entry.flow.why_unable)
        if self._waits_on(entry, view):
            return e.NoRoom()
        entry.again_s = None
        ask = self._foresight.ask(entry, order, self._clock())
        if self._room.must_wait(entry):
            return self._waits(entry, ask, view, _BEHIND) or e.NoRoom()
        decision = self._balancer.choose(ask, view)
        if decision.chosen is None:
            if decision.awaited:
                entry.again_s, entry.awaited = ask.now_s + _AGAIN_S, decision.awaited
            if decision.hopeless and entry.rank is Rank.NEW and self._workers.all_up:
                return e.GivenUp(e.FailKind.ENGINE, "; ".join(f"{worker}: {reason}" for worker, reason in decision.rejected.items()))
            if (waits := self._waits(entry, ask, view, decision)) is not None:
                return waits
            decision = replace(decision, chosen=decision.otherwise, reason=f"{decision.reason} no longer: that takes too long")
        chosen = decision.chosen
        assert chosen is not None
        refused = self._refused(entry, ask, chosen, view)
        if refused is not None:
            entry.timeline.considered(ask, decision, self._clock() - entry.timeline.began_s)
            return refused
        if self._does_harm(entry, chosen):
            entry.again_s, entry.awaited = ask.now_s + _AGAIN_S, ()
            self._foresee(entry, ask, view)
            return e.NoRoom()
        self._room.tries(entry)
        entry.timeline.decided(ask, decision, self._clock() - entry.timeline.began_s)
        entry.placed(ask, chosen)
        self._balancer.follow(ask, chosen)
        if chosen.plan.is_split and order.keeper is None:
            self._workers.inflight.planned(entry.flow.request, chosen.plan.decode, entry.work_to_come(ask.now_s))
        return e.Planned(chosen.plan)

    def hand_over(self, entry: Entry, order: i.AskPlan) -> tuple[Plan, bool]:
        """Who decodes a prompt that has just been computed, and whether that was decided now.

        What was planned holds as long as this router knows of all that happens there. Where others have work, theirs has come meanwhile:
        each router plans ahead for itself, and several would hand over to the same worker. Where nobody can decode it now, the plan holds,
        too: its worker refuses, and that is where another beginning is found.
        """
        planned = entry.chosen
        assert planned is not None
        seen = self._workers.view().get(planned.plan.decode)
        if not self._balancer.binds_late or (seen is not None and not seen.load.others.legs):
            return planned.plan, False
        self._workers.inflight.unplanned(entry.flow.request)  # or it would make way for itself
        ask = self._foresight.ask(entry, order, self._clock())
        decision = self._balancer.choose(ask, self._workers.view())
        chosen = decision.chosen
        if chosen is None or not chosen.plan.is_split or chosen.plan.prefill != order.keeper:
            return planned.plan, True
        chosen = replace(chosen, ttft_s=planned.ttft_s)  # by which it was let in, and is judged
        entry.timeline.handed_over(ask, replace(decision, chosen=chosen), self._clock() - entry.timeline.began_s)
        entry.placed(ask, chosen)
        return chosen.plan, True

    def could_go_elsewhere(self, entry: Entry, worker: WorkerId) -> bool:
        """Whether somebody has room for a request whose worker has to go. If not it runs on, and the worker asks again."""
        ask = self._foresight.ask(entry, i.AskPlan(frozenset({worker})), self._clock())
        return self._balancer.is_possible(ask, self._workers.view())

    def _nobody_is_able(self, entry: Entry, view: View) -> bool:
        """Whether every worker that takes requests has said that it lacks what this one asks for."""
        ready = [worker for worker, seen in view.items() if seen.card.state is WorkerState.READY]
        return bool(ready) and self._workers.all_up and all(worker in entry.flow.unable for worker in ready)

    def _waits_on(self, entry: Entry, view: View) -> bool:
        """Whether it waits by choice, and nothing is new."""
        if entry.again_s is None or entry.rank is not Rank.NEW or self._clock() >= entry.again_s:
            return False
        return all(no_room_to_prefill(view[worker], entry.context_tokens) for worker in entry.awaited if worker in view)

    def _does_harm(self, entry: Entry, chosen: Scored) -> bool:
        """Whether a new request would break more promises than the one it keeps: then it waits until there is room for it."""
        return self._refuses_hopeless and entry.rank is Rank.NEW and chosen.breaks > chosen.keeps

    def _waits(self, entry: Entry, ask: Ask, view: View, decision: Decision) -> e.NoRoom | e.GivenUp | None:
        """It does, or is refused because it would for too long: then the decision that it must wait is written down. None: there is a plan
        by which it need not wait, dearer for all together, that keeps its promise and breaks no other."""
        self._foresee(entry, ask, view)
        refused = self._waits_too_long(entry, ask, view)
        if refused is None:
            return e.NoRoom()
        now = decision.otherwise
        if now is not None and now.keeps >= _LIKELY and now.breaks <= _HARMLESS:
            return None
        entry.timeline.considered(ask, decision, self._clock() - entry.timeline.began_s)
        return refused

    def _foresee(self, entry: Entry, ask: Ask, view: View) -> None:
        """For its place in the queue; once, as soon as there are workers by which to tell."""
        if entry.takes is None and entry.rank is Rank.NEW and view:
            entry.takes = self._foresight.takes(ask, entry.service, view)

    def _waits_too_long(self, entry: Entry, ask: Ask, view: View) -> e.GivenUp | None:
        """Whether a new request that has to wait will do so for too long: it is refused at once, rather than when that has happened."""
        some = list(islice(view.values(), _LOOKED_AT))
        if entry.entered_s is not None or ask.ttft_s is None or not some or not self._may_be_refused(entry, some):
            return None
        queue = self._room.queue
        elsewhere = sum(seen.load.others.queued_tokens for seen in some) / len(some)
        service, takes = entry.service, entry.takes or UNKNOWN
        soonest_s = self._balancer.soonest_s(ask, view, queue.tokens_ahead(ask.now_s, service, elsewhere, takes))
        if soonest_s is None:
            return None
        longer = queue.longer_ahead(ask.now_s, service, entry.context_tokens, takes)
        return self._given_up(entry, ask, view, Predicted(soonest_s), longer)

    def _refused(self, entry: Entry, ask: Ask, chosen: Scored, view: View) -> e.GivenUp | None:
        """Whether a new request, or in its place one that waits, is refused because what it is promised cannot be kept."""
        service = entry.service
        workers = [view[worker] for worker in (chosen.plan.prefill, chosen.plan.decode) if worker in view]
        if not service.has_objective or not self._may_be_refused(entry, workers):
            return None
        answer_s = None if chosen.tpot_s is None else ask.expected_tokens * chosen.tpot_s
        ttft_s = chosen.ttft_s
        if ttft_s is not None and service.ttft_s is not None:
            ttft_s += self._foresight.predictor.ttft_late_s(view[chosen.plan.prefill].card.role, service.ttft_s)
        return self._given_up(entry, ask, view, Predicted(ttft_s, chosen.tpot_s, answer_s, chosen.keeps))

    def _may_be_refused(self, entry: Entry, workers: Iterable[WorkerView]) -> bool:
        """New ones may, that nobody has been asked for yet and that did not come while there was nobody. And only by predictions from
        measured steps: by others a cluster might refuse everything, and never learn better."""
        is_new = entry.rank is Rank.NEW and not entry.timeline.attempts and entry.counts_from_s is None
        return self._refuses_hopeless and is_new and all(seen.load.step is not None for seen in workers)

    def _given_up(self, entry: Entry, ask: Ask, view: View, predicted: Predicted, longer: Waiting | None = None) -> e.GivenUp | None:
        """It is, or another one in its place is, perhaps a ``longer`` one ahead of it; or nobody."""
        room, now_s = self._room, ask.now_s
        drained_s = room.queue.retry_after_s(now_s, 1.0)
        refusal = early_refusal(entry.service, predicted, room.queue.in_turn(now_s), now_s, drained_s, longer)
        if refusal is None:
            return None
        self._foresee(entry, ask, view)
        if (never := never_in_time(entry.service, entry.takes or UNKNOWN)) is not None:
            return e.GivenUp(e.FailKind.NEVER, never)
        if refusal.instead is None:
            return room.overloaded(refusal.reason, refusal.retry_after_s)
        room.refuse(refusal.instead, refusal.reason, refusal.retry_after_s)
        return None
