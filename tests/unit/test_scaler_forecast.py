"""What demand will be: each method, and which one is asked."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.forecast import METHODS, Track, last, seasonal, trend
from autoscaler.policy import ForecastName
from autoscaler.series import PARTS, Series

DAY_S = 9600.0
"""A part of it is 100 s."""


def series(values: list[float], step_s: float = 10.0, season_s: float | None = None) -> Series:
    made = Series()
    for number, value in enumerate(values):
        made = made.plus(value, number * step_s, 1000.0, season_s)
    return made


def followed(demand: Callable[[float], float], seconds: float, horizon_s: float = 60.0, season_s: float | None = None) -> Track:
    """A track of a demand, asked every ten seconds."""
    track = Track()
    for number in range(int(seconds / 10)):
        track = track.seen(demand(number * 10.0), number * 10.0, horizon_s, season_s)
    return track


def test_last_is_the_newest() -> None:
    """The last value, whatever was before."""
    assert last(series([1.0, 9.0, 4.0]), 20.0, 60.0, None) == 4.0
    assert last(Series(), 0.0, 60.0, None) is None


def test_a_trend_goes_on_and_bends() -> None:
    """A steady rise goes on, but by less than a straight line; and further ahead it is never lower."""
    rising = series([float(value) for value in range(20)])
    values = [trend(rising, 190.0, horizon_s, None) or 0.0 for horizon_s in (0.0, 50.0, 100.0, 1000.0)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(19.0)
    assert 19.0 + 4.0 < values[1] < 19.0 + 5.0


@given(st.lists(st.floats(0, 1e6), min_size=5, max_size=50), st.floats(0, 1e5))
def test_a_trend_is_bounded(values: list[float], horizon_s: float) -> None:
    """It is never negative, and goes no further from the last value than the last minutes did."""
    ahead = trend(series(values), (len(values) - 1) * 10.0, horizon_s, None)
    assert ahead is not None
    assert max(0.0, values[-1] - (max(values) - values[-1])) - 1e-6 <= ahead <= 2 * values[-1] - min(values) + 1e-6


def test_a_trend_needs_points() -> None:
    """Of four points it says nothing."""
    assert trend(series([1.0, 2.0, 3.0, 4.0]), 30.0, 60.0, None) is None


def wave(at_s: float) -> float:
    """A day."""
    return 100 - 80 * math.cos(at_s / DAY_S * 2 * math.pi)


def test_a_season_repeats() -> None:
    """From the third day on, what comes in an hour is known from the days before; before, nothing is said."""
    early = followed(wave, 1.9 * DAY_S, season_s=DAY_S).series
    assert seasonal(early, 1.9 * DAY_S, 900.0, DAY_S) is None
    known = followed(wave, 2.3 * DAY_S, season_s=DAY_S).series
    now_s = 2.3 * DAY_S - 10
    for ahead_s in (100.0, 500.0, 2000.0):
        assert seasonal(known, now_s, ahead_s, DAY_S) == pytest.approx(wave(now_s + ahead_s), abs=6.0)


def test_a_season_starts_from_today() -> None:
    """Where today is busier than the days before, so is what comes."""
    known = followed(wave, 2.3 * DAY_S, season_s=DAY_S).series
    now_s = 2.3 * DAY_S
    louder = known.plus(wave(now_s) + 50.0, now_s, 100.0, DAY_S)
    assert seasonal(louder, now_s, 500.0, DAY_S) == pytest.approx(wave(now_s + 500) + 50.0, abs=8.0)


def test_a_long_silence_ends_a_season() -> None:
    """Parts nobody looked at are guessed for a while; after more than a quarter of a season all begins anew."""
    known = followed(wave, 1.0 * DAY_S, season_s=DAY_S).series
    assert len(known.plus(1.0, 1.1 * DAY_S, 100.0, DAY_S).parts) > len(known.parts)
    assert known.plus(1.0, 1.5 * DAY_S, 100.0, DAY_S).parts == ()


def test_memory_is_bounded() -> None:
    """Four seasons, and a hundred and twenty points."""
    track = followed(lambda at_s: 1.0, 6 * DAY_S, season_s=None)
    assert len(track.series.recent) <= 120
    long = Series(parts=(1.0,) * (PARTS * 4), part=5, part_sum=1.0, part_count=1)
    assert len(long.plus(1.0, 600.0, 100.0, DAY_S).parts) == PARTS * 4


@pytest.mark.parametrize(
    ("demand", "best"),
    [(lambda at_s: 50.0, "last"), (lambda at_s: 50.0 + 0.2 * at_s, "trend"), (wave, "seasonal")],
    ids=["constant", "rising", "daily"],
)
def test_whoever_was_right_is_asked(demand: Callable[[float], float], best: str) -> None:
    """``best`` is the method whose last forecasts were the closest."""
    season_s = DAY_S if best == "seasonal" else None
    track = followed(demand, 2.4 * DAY_S if season_s else 2000.0, 300.0, season_s)
    now_s = track.series.recent[-1][0]
    ahead = track.ahead("best", now_s, 300.0, season_s, 0.0)
    assert ahead.method == best
    assert ahead.value == pytest.approx(demand(now_s + 300.0), rel=0.06)


@pytest.mark.parametrize("name", [*METHODS, "best"])
def test_who_knows_nothing_says_what_is(name: ForecastName) -> None:
    """Before a method can say anything, the last value stands for it; before any value, 0."""
    assert Track().ahead(name, 0.0, 60.0, DAY_S, 1.0).value == 0.0
    assert Track().seen(7.0, 0.0, 60.0, DAY_S).ahead(name, 0.0, 60.0, DAY_S, 1.0).value == 7.0


def test_the_margin_is_the_usual_error() -> None:
    """Demand that jumps up and down is prepared for, by about how far it jumps; steady demand needs no margin; safety 0 gives none."""
    restless = followed(lambda at_s: 100.0 + (10.0 if at_s // 10 % 2 else -10.0), 2000.0, 70.0)
    steady = followed(lambda at_s: 100.0, 2000.0, 70.0)
    assert 5.0 <= restless.ahead("last", 1990.0, 70.0, None, 1.0).margin <= 25.0
    assert restless.ahead("last", 1990.0, 70.0, None, 0.0).margin == 0.0
    assert steady.ahead("last", 1990.0, 70.0, None, 1.0).margin == 0.0


def test_a_jump_is_not_prepared_for_without_bound() -> None:
    """The margin is at most a quarter of the forecast."""
    track = followed(lambda at_s: 10.0 if at_s < 1000 else 1000.0, 1100.0)
    ahead = track.ahead("last", 1090.0, 60.0, None, 10.0)
    assert ahead.margin == 0.25 * ahead.value


@pytest.mark.parametrize("horizon_s", [5.0, 60.0, 600.0, 3600.0])
def test_few_forecasts_wait_to_be_checked(horizon_s: float) -> None:
    """However long a start takes; and in every horizon many are checked all the same."""
    track = Track()
    for number in range(int(3 * horizon_s / 2)):
        track = track.seen(float(number), number * 2.0, horizon_s, None)
    assert min(60, horizon_s / 2) - 2 <= len(track.due) <= 61
    assert track.costs[0] is not None


def test_other_start_up_times_keep_the_bound() -> None:
    """Where they change, what was foreseen for later waits on; never more than two horizons' worth of it."""
    track = Track()
    for number in range(2000):
        track = track.seen(1.0, number * 2.0, 600.0 if number % 2 else 60.0, None)
        assert len(track.due) <= 120


def test_a_season_can_be_fitted_later() -> None:
    """Until it is, the days before are gone by as they were foreseen; and then it is as if it had been fitted at once."""
    known = followed(wave, 2.3 * DAY_S, season_s=DAY_S).series
    then_s = (known.part + 1) * DAY_S / PARTS
    at_once = known.plus(wave(then_s), then_s, 100.0, DAY_S)
    late = known.plus(wave(then_s), then_s, 100.0, DAY_S, fits=False)
    assert (late.unfitted, late.path) == (True, known.path[1:])
    assert seasonal(late, then_s, 500.0, DAY_S) == pytest.approx(seasonal(at_once, then_s, 500.0, DAY_S), rel=0.1)
    fitted = late.plus(wave(then_s + 10.0), then_s + 10.0, 100.0, DAY_S)
    assert fitted == at_once.plus(wave(then_s + 10.0), then_s + 10.0, 100.0, DAY_S)
