"""How far things turned out from what was predicted: the newest, for a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.predict.odds import Odds


def test_counts_what_turned_out_to_be_more() -> None:
    """Twice as long is not more than twice as long; predictions of nothing count for nothing."""
    odds = Odds()
    for happened in (0.5, 1.0, 2.0, 4.0):
        odds.observe(1.0, happened, 0.0)
    odds.observe(0.0, 9.0, 0.0)
    assert [odds.beyond(ratio, 0.0) for ratio in (0.1, 1.0, 2.0, 5.0)] == [(4, 4), (2, 4), (1, 4), (0, 4)]


def test_a_minute_later_it_is_forgotten() -> None:
    """Or nobody would ever be tried again."""
    odds = Odds()
    odds.observe(1.0, 9.0, 100.0)
    assert odds.beyond(2.0, 159.0) == (1, 1)
    assert odds.beyond(2.0, 161.0) == (0, 0)


@given(st.lists(st.tuples(st.floats(0.01, 100.0), st.floats(0.0, 30.0)), max_size=400), st.floats(0.0, 10.0))
def test_is_bounded_and_counts_right(told: list[tuple[float, float]], ratio: float) -> None:
    """Whatever came in whatever order: the newest 128 of the last minute."""
    odds, now = Odds(), 0.0
    kept: list[tuple[float, float]] = []
    for happened, later_s in told:
        now += later_s
        odds.observe(2.0, happened, now)
        kept = [(at_s, each) for at_s, each in [*kept, (now, happened / 2.0)][-128:] if at_s >= now - 60.0]
    assert odds.beyond(ratio, now) == (sum(each > ratio for _, each in kept), len(kept))
