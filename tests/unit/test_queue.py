"""The router's queue: its order, its bounds, and what it predicts."""

from __future__ import annotations

import math

import pytest

from core.ids import RequestId
from router.drain_rate import DrainRate
from router.queue import QueueLimits, Rank, RequestQueue, Waiting


def waiting(name: str, rank: Rank = Rank.NEW, tokens: int = 100, since_s: float = 0.0, until_s: float = 30.0) -> Waiting:
    return Waiting(RequestId(name), rank, tokens, since_s, until_s)


def queue_of(*entries: Waiting, limits: QueueLimits = QueueLimits(), now: float = 0.0) -> RequestQueue:  # noqa: B008 - frozen
    queue = RequestQueue(limits)
    for entry in entries:
        queue.enter(entry, now)
    return queue


def test_order() -> None:
    """Those that hold blocks first, then those whose clients have tokens, then the rest; each in order of arrival."""
    queue = queue_of(
        waiting("new-2", since_s=2.0),
        waiting("new-1", since_s=1.0),
        waiting("resumed", Rank.RESUMED, since_s=3.0),
        waiting("handed-off-5", Rank.HANDED_OFF, since_s=5.0),
        waiting("handed-off-4", Rank.HANDED_OFF, since_s=4.0),
    )
    assert [entry.request for entry in queue] == ["handed-off-4", "handed-off-5", "resumed", "new-1", "new-2"]


def test_entering_again_replaces() -> None:
    """A request is in the queue once, as what it is now."""
    queue = queue_of(waiting("a", tokens=100), waiting("a", Rank.RESUMED, tokens=150))
    assert (len(queue), queue.tokens) == (1, 150)
    assert list(queue) == [waiting("a", Rank.RESUMED, tokens=150)]
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


def draining(tokens_per_s: int, ahead: int, max_wait_s: float) -> RequestQueue:
    """A queue that has served so many tokens in each of ten seconds, ``ahead`` tokens long at second 10."""
    queue = queue_of(waiting("long", tokens=ahead, since_s=9.0, until_s=math.inf), limits=QueueLimits(max_wait_s=max_wait_s))
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
