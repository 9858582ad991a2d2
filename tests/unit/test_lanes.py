"""The order of new requests that wait: priority, tenant, when it is due; who ages, and who makes way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import RequestId
from router.fairness import VirtualCounters
from router.lanes import AGEING, Lanes, Round
from router.service import ORDINARY, WantedService
from router.waiting import Rank, Takes, Waiting

HORIZON_S = 10.0


def new(name: str, service: WantedService = ORDINARY, since_s: float = 0.0, prefill_s: float = 0.0, tokens: int = 100) -> Waiting:
    return Waiting(RequestId(name), Rank.NEW, tokens, since_s, 1e9, service, Takes(prefill_s))


def wants(ttft_s: float | None = None, priority: int = 0, tenant: str = "default", deadline_s: float | None = None) -> WantedService:
    return WantedService(tenant, ttft_s=ttft_s, priority=priority, deadline_s=deadline_s)


def lanes_of(*all_waiting: Waiting, now: float = 0.0) -> Lanes:
    lanes = Lanes(VirtualCounters(), HORIZON_S)
    for waiting in all_waiting:
        lanes.enter(waiting, now)
    return lanes


def order(lanes: Lanes, now: float = 0.0) -> str:
    """Everybody, in turn, while nobody has room."""
    lanes.late(now)
    look, names = Round(), []
    while (waiting := lanes.next(look)) is not None:
        look.passed(waiting)
        names.append(waiting.request)
    return " ".join(names)


ORDERS: dict[str, tuple[list[Waiting], float, str]] = {
    "arrival": ([new("b", since_s=2.0), new("a", since_s=1.0), new("c", since_s=3.0)], 3.0, "a b c"),
    "arrival, not length, where nothing is promised": ([new("short"), new("long", since_s=1.0, prefill_s=5.0)], 1.0, "short long"),
    "equally urgent ones as they came": ([new("a", wants(1.0)), new("b", wants(1.0)), new("c", wants(1.0))], 0.0, "a b c"),
    "the tighter promise": ([new("loose", wants(5.0)), new("tight", wants(1.0), since_s=0.5)], 0.5, "tight loose"),
    "by when they are due, not by slack": ([new("short", wants(5.0)), new("long", wants(5.1), prefill_s=2.0)], 0.0, "short long"),
    "what is promised nothing has a horizon": (
        [new("old"), new("promised", wants(5.0), since_s=6.0), new("soon", wants(1.0), since_s=6.0)],
        6.0,
        "soon old promised",
    ),
    "a deadline, less the answer": (
        [new("a", wants(3.0)), Waiting(RequestId("b"), Rank.NEW, 100, 0.0, 1e9, wants(deadline_s=10.0), Takes(1.0, 8.0))],
        0.0,
        "b a",
    ),
    "lost ones behind": ([new("lost", wants(1.0)), new("fine", wants(5.0), since_s=1.0)], 1.5, "fine lost"),
    "lost ones as they came": ([new("b", wants(0.5), since_s=1.0), new("a", wants(1.2)), new("c", wants(9.0))], 3.0, "c a b"),
    "lost on arrival": ([new("lost", wants(1.0), prefill_s=2.0), new("fine", wants(5.0))], 0.0, "fine lost"),
    "priority": ([new("late", wants(1.0, 5)), new("soon", wants(9.0, -5)), new("usual", wants(1.0))], 0.0, "soon usual late"),
    "lost ones of a better priority": ([new("lost", wants(1.0, -5)), new("fine", wants(9.0))], 2.0, "lost fine"),
    "tenants in turn": (
        [*(new(f"a{n}", wants(tenant="a")) for n in range(3)), *(new(f"b{n}", wants(tenant="b"), since_s=1.0) for n in range(2))],
        1.0,
        "a0 b0 a1 b1 a2",
    ),
    "tenants by tokens": (
        [new("a0", wants(tenant="a"), tokens=300), new("a1", wants(tenant="a")), *(new(f"b{n}", wants(tenant="b"), 1.0) for n in range(4))],
        1.0,
        "a0 b0 b1 b2 a1 b3",
    ),
    "tight promises pass only one's own": (
        [new("a", wants(tenant="a")), *(new(f"b{n}", wants(0.5, tenant="b")) for n in range(2))],
        0.0,
        "b0 a b1",
    ),
}


@pytest.mark.parametrize(("all_waiting", "now", "expected"), ORDERS.values(), ids=ORDERS.keys())
def test_order(all_waiting: list[Waiting], now: float, expected: str) -> None:
    """Priority, then whose objective is not lost, then the tenant that had least, then who is due first."""
    assert order(lanes_of(*all_waiting), now) == expected


def placements_until(lanes: Lanes, name: str, better: WantedService) -> int:
    """How many are placed until ``name`` is, while there is always another one that is to get ``better``."""
    for number in range(10_000):
        lanes.enter(new(f"better-{number}", better, since_s=float(number)), 0.0)
        first = lanes.next(Round())
        assert first is not None
        lanes.placed(first.request)
        if first.request == name:
            return number
    raise AssertionError("it starves")


@pytest.mark.parametrize("better", [wants(priority=-1), wants(priority=-100, ttft_s=1e9)])
def test_a_low_priority_is_served_at_last(better: WantedService) -> None:
    """One placement in eight is for the lanes further back, whatever stands before them."""
    assert placements_until(lanes_of(new("patient")), "patient", better) < AGEING


def test_a_lost_one_is_served_at_last() -> None:
    """Behind those that can be in time, but not behind all of them for ever."""
    lanes = lanes_of(new("lost", wants(1.0), prefill_s=2.0))
    assert placements_until(lanes, "lost", wants(1e6)) < AGEING


def test_lanes_further_back_take_turns() -> None:
    """Three priorities are never in the way of the fourth: each is served in time."""
    lanes = lanes_of(*(new(f"p{priority}", wants(priority=priority)) for priority in (1, 2, 3)))
    assert placements_until(lanes, "p3", ORDINARY) < 3 * AGEING


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([-1, 0, 1]), st.sampled_from("ab"), st.sampled_from([None, 1.0, 4.0]))))
def test_everybody_is_offered_once(asked: list[tuple[int, int, str, float | None]]) -> None:
    """Whatever has been moved, a look through the queue mentions all, and leaving empties it."""
    lanes = lanes_of(*(new(str(n), wants(ttft, priority, tenant), float(at)) for n, (at, priority, tenant, ttft) in enumerate(asked)))
    for now in (0.0, 2.0, 9.0):
        assert sorted(order(lanes, now).split()) == sorted(str(n) for n in range(len(asked)))
    for number in range(len(asked)):
        lanes.leave(RequestId(str(number)))
    assert (len(lanes), lanes.tokens, lanes.tenants, lanes.last()) == (0, 0, [], None)


MAKES_WAY: dict[str, tuple[list[Waiting], WantedService, str | None]] = {
    "nobody waits": ([], ORDINARY, None),
    "its equals": ([new("a"), new("b")], ORDINARY, None),
    "a better one": ([new("a", wants(priority=-1))], ORDINARY, None),
    "a lower priority": ([new("a"), new("batch", wants(priority=9)), new("b")], ORDINARY, "batch"),
    "the least of the lowest": ([new("old", wants(priority=9)), new("young", wants(priority=9), since_s=1.0)], ORDINARY, "young"),
    "what is lost anyway": ([new("a"), new("lost", wants(1.0), prefill_s=2.0)], ORDINARY, "lost"),
    "a tenant with more than its share": ([new(f"a{n}", wants(tenant="a")) for n in range(3)], wants(tenant="b"), "a2"),
    "not one with as many": ([new("a", wants(tenant="a"))], wants(tenant="b"), None),
    "not one with its weight's worth": (
        [new(f"a{n}", WantedService("a", weight=4.0)) for n in range(4)],
        wants(tenant="b"),
        None,
    ),
}


@pytest.mark.parametrize(("all_waiting", "service", "who"), MAKES_WAY.values(), ids=MAKES_WAY.keys())
def test_who_makes_way(all_waiting: list[Waiting], service: WantedService, who: str | None) -> None:
    """For one more request: somebody less important, lost, or of a tenant that has more than its share; else nobody."""
    lanes = lanes_of(*all_waiting)
    assert lanes.makes_way(service) == (who is not None)
    last = lanes.last()
    if who is not None:
        assert last is not None
        assert last.request == who


AHEAD: dict[str, tuple[list[Waiting], WantedService, float]] = {
    "all of its tenant's": ([new("a"), new("b")], ORDINARY, 200.0),
    "all that is better": ([new("a", wants(priority=-1)), new("b", wants(priority=1))], ORDINARY, 100.0),
    "none that is lost": ([new("a", wants(1.0), prefill_s=2.0)], ORDINARY, 0.0),
    "none that is less urgent": ([new("a"), new("b", wants(1.0))], wants(2.0), 100.0),
    "none of others, where it has nothing": ([new(f"b{n}", wants(tenant="b")) for n in range(9)], ORDINARY, 0.0),
    "as much of others as it has itself": ([new("a"), *(new(f"b{n}", wants(tenant="b")) for n in range(9))], ORDINARY, 200.0),
    "no more of others than there is": ([new("b", wants(tenant="b")), *(new(f"a{n}") for n in range(9))], ORDINARY, 1000.0),
}


@pytest.mark.parametrize(("all_waiting", "service", "tokens"), AHEAD.values(), ids=AHEAD.keys())
def test_what_is_ahead_of_one_more(all_waiting: list[Waiting], service: WantedService, tokens: float) -> None:
    """So long is its own wait, whatever others are in for."""
    assert lanes_of(*all_waiting).tokens_ahead(service, 0.0) == pytest.approx(tokens)


LONGEST: dict[str, tuple[list[Waiting], WantedService, str | None]] = {
    "nobody": ([], ORDINARY, None),
    "of its own": ([new("a"), new("long", tokens=900), new("b")], ORDINARY, "long"),
    "not another tenant's": ([new("a"), new("long", wants(tenant="b"), tokens=900)], ORDINARY, "a"),
    "not of another priority": ([new("a"), new("long", wants(priority=1), tokens=900), new("b", wants(priority=-1))], ORDINARY, "a"),
    "not one that is lost": ([new("a", wants(1.0)), new("long", wants(1.0), prefill_s=2.0, tokens=900)], wants(1.0), "a"),
    "not one behind it": ([new("a", wants(1.0)), new("long", wants(3.0), tokens=900)], wants(2.0), "a"),
}


@pytest.mark.parametrize(("all_waiting", "service", "who"), LONGEST.values(), ids=LONGEST.keys())
def test_the_longest_ahead_of_one_more(all_waiting: list[Waiting], service: WantedService, who: str | None) -> None:
    """Without whom it would be in time soonest: of those in its own line, before it."""
    longest = lanes_of(*all_waiting).longest_ahead(service, 0.0)
    assert (longest and longest.request) == who
