"""The router's queue: its order, its bounds, and what it predicts."""

from __future__ import annotations

import dataclasses
import math

import pytest

from core.ids import RequestId
from router.drain_rate import DrainRate
from router.queue import QueueLimits, RequestQueue
from router.service import ORDINARY, WantedService
from router.waiting import Rank, Waiting


def waiting(
    name: str,
    rank: Rank = Rank.NEW,
    tokens: int = 100,
    since_s: float = 0.0,
    until_s: float = 30.0,
    service: WantedService = ORDINARY,
) -> Waiting:
    return Waiting(RequestId(name), rank, tokens, since_s, until_s, service)


def queue_of(*entries: Waiting, limits: QueueLimits = QueueLimits(), now: float = 0.0) -> RequestQueue:  # noqa: B008 - frozen
    queue = RequestQueue(limits)
    for entry in entries:
        queue.enter(entry, now)
    return queue


def names(queue: RequestQueue, now: float = 0.0) -> list[str]:
    """Who is offered to workers, in turn."""
    return [entry.request for entry in queue.in_turn(now)]


@pytest.mark.parametrize(("priority", "ahead"), [(0, 300 * 3), (-1, 0), (1, 400 * 3)])
def test_of_what_waits_elsewhere_as_much_is_ahead_as_of_what_waits_here(priority: int, ahead: int) -> None:
    """Other routers have twice as much waiting: so of every priority twice as much, for all that is known."""
    queue = queue_of(waiting("a", tokens=300), waiting("b", tokens=100, service=WantedService(priority=1)))
    assert queue.tokens_ahead(1.0, WantedService(priority=priority), elsewhere=800.0) == pytest.approx(ahead)
    assert queue_of().tokens_ahead(1.0, ORDINARY, elsewhere=800.0) == 0.0


def test_order() -> None:
    """Those that hold blocks first, then those whose clients have tokens, then the rest; each in order of arrival."""
    queue = queue_of(
        waiting("new-2", since_s=2.0),
        waiting("new-1", since_s=1.0),
        waiting("resumed", Rank.RESUMED, since_s=3.0),
        waiting("handed-off-5", Rank.HANDED_OFF, since_s=5.0),
        waiting("handed-off-4", Rank.HANDED_OFF, since_s=4.0),
    )
    assert names(queue) == ["handed-off-4", "handed-off-5", "resumed", "new-1", "new-2"]


def test_entering_again_replaces() -> None:
    """A request is in the queue once, as what it is now."""
    queue = queue_of(waiting("a", tokens=100), waiting("a", Rank.RESUMED, tokens=150))
    assert (len(queue), queue.tokens) == (1, 150)
    assert list(queue.in_turn(0.0)) == [waiting("a", Rank.RESUMED, tokens=150)]
    queue.leave(RequestId("a"), 0.0)
    queue.leave(RequestId("a"), 0.0)
    assert (len(queue), queue.tokens, RequestId("a") in queue) == (0, 0, False)


def test_overdue() -> None:
    """Each has its own limit."""
    queue = queue_of(waiting("a", until_s=5.0), waiting("b", until_s=9.0))
    assert queue.overdue(4.9) == []
    assert [entry.request for entry in queue.overdue(5.0)] == ["a"]
    assert {entry.request for entry in queue.overdue(9.0)} == {"a", "b"}


def serve(queue: RequestQueue, name: str, tokens: int, at_s: float) -> None:
    """One that waited and was served."""
    queue.enter(waiting(name, tokens=tokens, since_s=at_s), at_s)
    queue.placed(RequestId(name))
    queue.served(RequestId(name), at_s)


def draining(tokens_per_s: int, ahead: int, max_wait_s: float, service: WantedService = ORDINARY) -> RequestQueue:
    """A queue that has served so many tokens in each of ten seconds, ``ahead`` tokens long at second 10."""
    queue = queue_of(
        waiting("long", tokens=ahead, since_s=9.0, until_s=math.inf, service=service), limits=QueueLimits(max_wait_s=max_wait_s)
    )
    for second in range(1, 11):
        serve(queue, f"s{second}", tokens_per_s, float(second))
    return queue


FULL: dict[str, tuple[RequestQueue, int, str | None]] = {
    "empty": (queue_of(limits=QueueLimits(max_requests=0, max_tokens=0)), 1, None),
    "empty, more at once than may wait": (
        queue_of(limits=QueueLimits(max_requests=4)),
        6,
        "6 answers at once are asked for, and 4 may wait",
    ),
    "empty, one may be placed at once": (queue_of(limits=QueueLimits(max_requests=4)), 5, None),
    "one that is under way waits long": (queue_of(waiting("a", Rank.RESUMED, tokens=0, since_s=-100)), 1, None),
    "room for one": (queue_of(waiting("a", since_s=9), limits=QueueLimits(max_requests=2)), 1, None),
    "no room for two": (queue_of(waiting("a", since_s=9), limits=QueueLimits(max_requests=2)), 2, "1 requests are waiting, and 2 may"),
    "those under way do not count": (
        queue_of(
            waiting("a", Rank.RESUMED, since_s=9),
            waiting("b", Rank.HANDED_OFF, since_s=9),
            limits=QueueLimits(max_requests=1, max_wait_s=60.0),
        ),
        1,
        None,
    ),
    "too many tokens": (
        queue_of(waiting("a", tokens=500, since_s=9), limits=QueueLimits(max_tokens=500)),
        1,
        "500 prompt tokens are waiting, and 500 may",
    ),
    "too old": (
        queue_of(waiting("a", since_s=-1), limits=QueueLimits(max_wait_s=20.0)),
        1,
        "requests have been waiting for more than 10 s",
    ),
    "a short wait": (draining(100, 900, max_wait_s=20.0), 1, None),
    "too long a wait": (draining(100, 2000, max_wait_s=12.0), 1, "the wait would be 6.7 s, and 6 s is the most"),
    "one that takes long": (queue_of(waiting("a", since_s=0)), 1, None),
    "many that take long": (queue_of(*(waiting(f"{n}", since_s=0) for n in range(4))), 1, "the wait would be 40.0 s, and 15 s is the most"),
}


@pytest.mark.parametrize(("queue", "requests", "reason"), FULL.values(), ids=FULL.keys())
def test_full(queue: RequestQueue, requests: int, reason: str | None) -> None:
    """At second 10. One bound is enough; an empty queue takes anything, whatever the bounds."""
    assert queue.full(10.0, requests) == reason


def test_retry_after_is_when_half_of_what_may_wait_has_drained() -> None:
    """Never sooner than a second or later than a minute; the default when nothing was seen to drain."""
    assert draining(100, 1000, max_wait_s=4.0).retry_after_s(10.0, 5.0) == pytest.approx(5.0 - 1.0)
    assert draining(100, 10, max_wait_s=10.0).retry_after_s(10.0, 5.0) == 1.0
    crowd = queue_of(*(waiting(f"{n}") for n in range(20)))
    assert crowd.retry_after_s(10.0, 5.0) == 60.0
    assert crowd.retry_after_s(0.5, 5.0) == 5.0
    assert queue_of().retry_after_s(0.5, 5.0) == 1.0


def test_what_is_offered_is_not_served() -> None:
    """A request that is refused and comes back counts once, when somebody has begun with it, and as much as it was charged."""
    queue = queue_of(waiting("behind", tokens=1000, since_s=0.5))
    for second in range(1, 10):
        queue.enter(waiting("a", tokens=100), float(second))
        queue.placed(RequestId("a"))
    assert queue.predicted_wait_s(9.0) is None
    queue.served(RequestId("a"), 10.0)
    queue.served(RequestId("a"), 10.0)
    queue.served(RequestId("never waited"), 10.0)
    assert queue.predicted_wait_s(10.0) == pytest.approx(1000 / ((100 + 1000) / 10))


def test_small_ones_may_pass_a_big_one_for_a_while() -> None:
    """Thirty-two of them; then all wait until it is placed. Being placed in turn is no overtaking."""
    queue = queue_of(waiting("big", tokens=5000, since_s=1.0))
    for number in range(31):
        serve(queue, f"small{number}", 10, 2.0 + number)
        assert queue.lets_pass
    queue.placed(RequestId("never waited"))
    assert not queue.lets_pass
    queue.placed(RequestId("big"))
    assert queue.lets_pass
    queue.enter(waiting("other", since_s=50.0), 50.0)
    queue.placed(RequestId("other"))
    assert queue.lets_pass


def test_who_was_overtaken_too_often_is_next_whatever_the_order_says() -> None:
    """Requests that are more urgent do not keep a big one out for ever; those that are under way go before it, as before all."""
    queue = queue_of(waiting("big", tokens=5000, since_s=1.0))
    for number in range(32):
        queue.placed(RequestId(f"direct{number}"))
    queue.enter(waiting("urgent", service=WantedService(ttft_s=0.5), since_s=1.0), 1.0)
    queue.enter(waiting("resumed", Rank.RESUMED, since_s=1.2), 1.2)
    assert not queue.lets_pass
    assert names(queue, 1.2) == ["resumed", "big", "urgent"]
    queue.placed(RequestId("resumed"))
    assert not queue.lets_pass
    queue.placed(RequestId("big"))
    assert queue.lets_pass


def test_a_better_priority_overtakes_eight_times_as_often() -> None:
    """That is what a priority is for; and then it waits, too."""
    queue = queue_of(waiting("big", tokens=5000, service=WantedService(priority=5)))
    for number in range(255):
        queue.placed(RequestId(f"direct{number}"))
    assert queue.lets_pass
    queue.placed(RequestId("direct255"))
    assert not queue.lets_pass


def test_one_that_leaves_holds_nobody_up() -> None:
    """A big one that is given up was not overtaken for others' sake."""
    queue = queue_of(waiting("big"), waiting("next", since_s=1.0))
    for number in range(40):
        queue.placed(RequestId(f"direct{number}"))
    assert not queue.lets_pass
    queue.leave(RequestId("big"), 2.0)
    assert queue.lets_pass


PATIENT = WantedService(priority=9)
PROMISED = WantedService(ttft_s=4.0)
NEWCOMER: dict[str, tuple[RequestQueue, WantedService, str | None]] = {
    "the queue is full of its equals": (
        queue_of(*(waiting(f"{n}", since_s=9.0) for n in range(2)), limits=QueueLimits(2, max_wait_s=60.0)),
        ORDINARY,
        "2 requests are waiting, and 2 may",
    ),
    "the queue is full of less important ones": (
        queue_of(*(waiting(f"{n}", since_s=9.0, service=PATIENT) for n in range(2)), limits=QueueLimits(2)),
        ORDINARY,
        None,
    ),
    "one tenant's flood is not another's": (
        queue_of(*(waiting(f"{n}", since_s=0.0) for n in range(4)), limits=QueueLimits(4, max_wait_s=1.0)),
        WantedService("other"),
        None,
    ),
    "nobody waits in its line for as long": (queue_of(waiting("a", since_s=-50.0, service=PATIENT)), ORDINARY, None),
    "when its first token comes is promised, and predicted once it is read": (
        draining(100, 900, max_wait_s=20.0, service=PROMISED),
        PROMISED,
        None,
    ),
    "it stands before those that are promised nothing": (draining(100, 900, max_wait_s=20.0), PROMISED, None),
    "the same without a promise": (draining(100, 900, max_wait_s=20.0), ORDINARY, None),
}


@pytest.mark.parametrize(("queue", "service", "reason"), NEWCOMER.values(), ids=NEWCOMER.keys())
def test_room_depends_on_who_asks(queue: RequestQueue, service: WantedService, reason: str | None) -> None:
    """At second 10: what counts is who stands before it, and who would make way for it."""
    assert queue.full(10.0, 1, service) == reason


def test_whoever_makes_way_is_taken_out() -> None:
    """Less important ones, when better ones came beyond the bounds; one more than may wait can be there, as ever."""
    queue = queue_of(*(waiting(f"patient{n}", since_s=float(n), service=PATIENT) for n in range(3)), limits=QueueLimits(3))
    queue.enter(waiting("a"), 3.0)
    assert queue.surplus() == []
    queue.enter(waiting("b"), 3.0)
    assert [gone.request for gone in queue.surplus()] == ["patient2"]
    assert (names(queue), queue.tokens) == (["a", "b", "patient0", "patient1"], 400)


def test_tokens_make_way_too() -> None:
    """As many as the bound needs; those that are under way are never touched."""
    queue = queue_of(
        waiting("resumed", Rank.RESUMED, tokens=9000),
        *(waiting(f"patient{n}", tokens=100, since_s=float(n), service=PATIENT) for n in range(3)),
        limits=QueueLimits(max_tokens=300),
    )
    assert queue.surplus() == []
    queue.enter(waiting("a", tokens=250), 3.0)
    assert [gone.request for gone in queue.surplus()] == ["patient2", "patient1"]
    assert names(queue) == ["resumed", "a", "patient0"]


LONGEST: dict[str, tuple[QueueLimits, WantedService, float]] = {
    "nothing promised": (QueueLimits(), ORDINARY, 30.0),
    "a first token": (QueueLimits(), WantedService(ttft_s=2.0), 2.0),
    "a deadline": (QueueLimits(), WantedService(ttft_s=9.0, deadline_s=5.0), 5.0),
    "later than anybody may wait": (QueueLimits(max_wait_s=8.0), WantedService(ttft_s=9.0), 8.0),
    "served all the same": (QueueLimits(refuse_hopeless=False), WantedService(ttft_s=2.0), 30.0),
}


@pytest.mark.parametrize(("limits", "service", "longest_s"), LONGEST.values(), ids=LONGEST.keys())
def test_how_long_one_may_wait(limits: QueueLimits, service: WantedService, longest_s: float) -> None:
    """Until what it is promised is lost for certain, unless nobody is refused for that."""
    assert limits.longest_wait_s(service) == longest_s


def test_those_that_go_during_a_look_are_not_mentioned() -> None:
    """Placing one may end others; and one that comes back at once is not offered twice."""
    queue = queue_of(*(waiting(f"{n}", since_s=float(n)) for n in range(4)))
    offered = []
    for each in queue.in_turn(5.0):
        offered.append(each.request)
        if each.request == "0":
            queue.placed(each.request)
            queue.enter(each, 5.0)
            queue.leave(RequestId("2"), 5.0)
    assert offered == ["0", "1", "3"]


def test_the_rate_is_that_of_the_last_busy_seconds() -> None:
    """A moment says nothing, nor do one or two requests; and neither does what was served long ago."""
    rate = DrainRate(window_s=10.0)
    assert rate.per_second(100.0, 0) is None
    rate.busy(100.0)
    rate.served(20, 100.5)
    rate.served(20, 100.5)
    assert rate.per_second(102.0, 0) is None
    rate.served(10, 100.6)
    assert rate.per_second(100.9, 0) is None
    assert rate.per_second(102.0, 0) == 25.0
    assert rate.per_second(102.0, 10) == 30.0
    rate.served(150, 112.0)
    assert rate.per_second(112.0, 0) == 15.0


def test_idle_time_does_not_count() -> None:
    """A queue that is there every other second drains as fast as one that is always there; after a long pause nothing is known."""
    rate = DrainRate(window_s=10.0, forget_s=60.0)
    for second in range(0, 20, 2):
        rate.busy(100.0 + second)
        rate.served(30, 100.5 + second)
        rate.idle(101.0 + second)
    rate.busy(160.0)
    assert rate.per_second(160.0, 0) == pytest.approx(30.0)
    rate.idle(160.5)
    rate.busy(230.0)
    assert rate.per_second(230.5, 0) is None


# -- while nobody serves -----------------------------------------------------------------------------------------------------


def test_nobody_is_refused_for_the_time_others_wait_for_the_first_worker() -> None:
    """Only for their number. When somebody serves, what was waited before does not count against those who come then."""
    limits = QueueLimits(max_requests=3, max_wait_s=10.0)
    queue = RequestQueue(limits)
    queue.served_by(False, 0.0)
    for number in range(2):
        queue.enter(Waiting(RequestId(str(number)), Rank.NEW, 100, 0.0, 120.0, held=True), 0.0)
    assert queue.full(60.0) is None
    assert (queue.predicted_wait_s(60.0), queue.retry_after_s(60.0, 7.0)) == (None, 7.0)
    queue.enter(Waiting(RequestId("2"), Rank.NEW, 100, 1.0, 120.0, held=True), 1.0)
    assert queue.full(60.0) is not None
    queue.leave(RequestId("2"), 60.0)
    queue.served_by(True, 60.0)
    for waiting in queue.new:
        queue.enter(dataclasses.replace(waiting, held=False, counts_from_s=60.0), 60.0)
    assert queue.full(60.1) is None
    assert queue.full(65.1) is not None  # but what they have waited since does


def test_how_fast_it_drains_is_not_measured_while_nobody_serves() -> None:
    """A minute without a worker is not a minute in which nothing was done."""
    queue = RequestQueue(QueueLimits())
    queue.served_by(False, 0.0)
    for number in range(8):
        queue.enter(waiting(str(number), tokens=100), 0.0)
    queue.served_by(True, 60.0)
    for number in range(4):
        queue.placed(RequestId(str(number)))
        queue.served(RequestId(str(number)), 60.5 + number / 2)
    wait_s = queue.predicted_wait_s(62.0)
    assert wait_s is not None
    assert wait_s < 2.0


def test_promises_count_from_the_first_worker() -> None:
    """Nobody is late before there is anybody who could be in time; and then those who came first are first."""
    promised = WantedService(ttft_s=1.0)
    held = Waiting(RequestId("a"), Rank.NEW, 10, 0.0, 120.0, promised, held=True)
    assert not held.is_late(50.0)
    served = dataclasses.replace(held, held=False, counts_from_s=50.0)
    assert (served.start_by_s, served.is_late(50.5), served.is_late(51.5)) == (51.0, False, True)
    assert dataclasses.replace(served, since_s=60.0).start_by_s == 61.0
    queue = RequestQueue(QueueLimits())
    for name in ("a", "b", "c"):
        queue.enter(dataclasses.replace(served, request=RequestId(name)), 50.0)
    queue.enter(waiting("later", since_s=50.2, service=promised), 50.2)
    assert names(queue, 50.3) == ["a", "b", "c", "later"]


STARTS: dict[str, tuple[float, float | None, float]] = {
    "no deadline": (120.0, None, 120.0),
    "an early one": (120.0, 5.0, 5.0),
    "a late one": (120.0, 500.0, 120.0),
    "nobody waits": (0.0, 5.0, 0.0),
}


@pytest.mark.parametrize("case", STARTS)
def test_how_long_one_waits_for_the_first_worker(case: str) -> None:
    """As long as is configured, or its deadline; not the time to its first token, which is lost anyway."""
    configured_s, deadline_s, expected_s = STARTS[case]
    assert QueueLimits(max_start_wait_s=configured_s).start_wait_s(WantedService(ttft_s=0.1, deadline_s=deadline_s)) == expected_s
