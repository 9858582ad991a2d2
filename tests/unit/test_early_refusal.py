"""Who is refused before anything is spent on it, and what is said."""

from __future__ import annotations

import pytest

from core.ids import RequestId
from router.early_refusal import Predicted, Refusal, early_refusal, refusal_text
from router.service import ORDINARY, WantedService
from router.waiting import Rank, Waiting

WANTED = WantedService(ttft_s=1.0, tpot_s=0.05, deadline_s=10.0)

TABLE: dict[str, tuple[WantedService, Predicted, str | None, float]] = {
    "nothing is promised": (ORDINARY, Predicted(99.0, 9.0, 999.0), None, 0.0),
    "nothing is known": (WANTED, Predicted(None), None, 0.0),
    "in time": (WANTED, Predicted(1.0, 0.05, 5.0), None, 0.0),
    "slow by less than predictions err": (WANTED, Predicted(1.0, 0.054, 9.8), None, 0.0),
    "just too late": (WANTED, Predicted(1.04), "the first token would come after 1.0 s, and 1 s is promised; try again in 1 s", 1.0),
    "the first token": (WANTED, Predicted(4.2), "the first token would come after 4.2 s, and 1 s is promised; try again in 4 s", 3.2),
    "less than a second": (
        WantedService(ttft_s=0.25),
        Predicted(0.4567),
        "the first token would come after 0.46 s, and 0.25 s is promised; try again in 1 s",
        1.0,
    ),
    "each token": (WANTED, Predicted(0.5, 0.08), "a token would take 80 ms, and 50 ms is promised; try again in 1 s", 1.0),
    "slow, with a fair chance": (WANTED, Predicted(0.5, 0.08, 5.0, keeps=0.3), None, 0.0),
    "the whole": (
        WANTED,
        Predicted(0.5, 0.04, 20.0),
        "the answer would be done after 20.5 s, and 10 s is the deadline; try again in 11 s",
        10.5,
    ),
    "a deadline alone": (
        WantedService(deadline_s=2.0),
        Predicted(3.0),
        "the answer would be done after 3.0 s, and 2 s is the deadline; try again in 1 s",
        1.0,
    ),
    "a minute at most": (
        WANTED,
        Predicted(300.0),
        "the first token would come after 300.0 s, and 1 s is promised; try again in 60 s",
        60.0,
    ),
}


@pytest.mark.parametrize(("wanted", "predicted", "text", "retry_after_s"), TABLE.values(), ids=TABLE.keys())
def test_what_cannot_be_kept(wanted: WantedService, predicted: Predicted, text: str | None, retry_after_s: float) -> None:
    """Only an objective that there is, and only by more than predictions err; with the reason and when to come again."""
    refusal = early_refusal(wanted, predicted, (), 0.0)
    assert (refusal and refusal.text) == text
    if refusal is not None:
        assert refusal.retry_after_s == pytest.approx(retry_after_s)
        assert refusal.instead is None


def test_nobody_is_asked_to_come_before_the_queue_has_room() -> None:
    """The longer of the two waits."""
    refusal = early_refusal(WANTED, Predicted(2.0), (), 0.0, drained_s=7.0)
    assert refusal is not None
    assert refusal.retry_after_s == 7.0


def lost(name: str, priority: int, since_s: float = 0.0, ttft_s: float | None = 1.0, rank: Rank = Rank.NEW) -> Waiting:
    return Waiting(RequestId(name), rank, 100, since_s, 60.0, WantedService(priority=priority, ttft_s=ttft_s))


PUSHED: dict[str, tuple[list[Waiting], str | None]] = {
    "lower and lost": ([lost("a", 5)], "a"),
    "the lowest": ([lost("a", 5), lost("b", 9), lost("c", 7)], "b"),
    "of those the latest": ([lost("old", 5), lost("young", 5, 1.0)], "young"),
    "its equal": ([lost("a", 0)], None),
    "a better one": ([lost("a", -5)], None),
    "lower, not lost": ([lost("a", 5, since_s=9.9)], None),
    "lower, promised nothing": ([lost("a", 5, ttft_s=None)], None),
    "lower and lost, under way": ([lost("a", 5, rank=Rank.RESUMED)], None),
}


@pytest.mark.parametrize(("waiting", "who"), PUSHED.values(), ids=PUSHED.keys())
def test_lowest_priority_first(waiting: list[Waiting], who: str | None) -> None:
    """A waiting request that is less important and lost anyway is refused in the place of the new one."""
    refusal = early_refusal(WANTED, Predicted(4.0), waiting, 10.0)
    assert refusal is not None
    assert refusal.instead == who


def test_the_longest_makes_way_for_one_that_is_in_time_without_it() -> None:
    """Unless one that is lost anyway and matters less can go instead. Whoever is in time displaces nobody."""
    longest = lost("long", 0, since_s=9.9)
    refusal = early_refusal(WANTED, Predicted(4.0), [longest], 10.0, longest=longest)
    assert refusal is not None
    assert (refusal.instead, refusal.retry_after_s) == ("long", 3.0)
    assert refusal.text == "it waits with a long prompt, and without it others are in time; try again in 3 s"
    refusal = early_refusal(WANTED, Predicted(4.0), [longest, lost("a", 5)], 10.0, longest=longest)
    assert refusal is not None
    assert refusal.instead == "a"
    assert early_refusal(WANTED, Predicted(0.9), [longest], 10.0, longest=longest) is None


def test_one_form() -> None:
    """Whole seconds, rounded up, as in the header."""
    assert refusal_text("the queue is full", 0.2) == "the queue is full; try again in 1 s"
    assert Refusal("the queue is full", 2.1).text == "the queue is full; try again in 3 s"
