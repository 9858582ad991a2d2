"""When routers are asked to move what a draining worker still has, and when it has had long enough."""

from __future__ import annotations

import pytest

from cluster.drain import SETTLE_S, Drain, hard_limit_s


@pytest.mark.parametrize(
    ("timeout_s", "asked_at_s"),
    [(0.0, [100.0, 101.0, 102.0, 103.0, 104.0]), (2.0, [102.0, 103.0, 104.0]), (2.2, [102.25, 103.25, 104.25]), (60.0, [])],
)
def test_asked_once_a_second_from_the_deadline_on(timeout_s: float, asked_at_s: list[float]) -> None:
    """Looked at four times a second from 100 s to 105 s."""
    drain = Drain(100.0, timeout_s)
    moments = [100.0 + quarter / 4 for quarter in range(20)]
    assert [at_s for at_s in moments if drain.is_time_to_ask(at_s)] == asked_at_s


def test_the_earlier_deadline_counts() -> None:
    """Whoever asked for it."""
    drain = Drain(0.0, 60.0)
    drain.hasten(10.0, 5.0)
    drain.hasten(11.0, 60.0)
    assert [at_s for at_s in (14.9, 15.0) if drain.is_time_to_ask(at_s)] == [15.0]


def test_long_enough_is_legs_then_leases() -> None:
    """The last leg may leave a lease at the very deadline."""
    assert hard_limit_s(30.0, 10.0) == 40.0 + SETTLE_S
