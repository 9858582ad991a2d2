"""What is counted as good, and what goodput a sweep has."""

import pytest

from simulation.goodput import Objective, goodput, outcome, quantiles, worst
from simulation.record import Record
from simulation.svg import Line, Plot, cdf
from simulation.traces import TraceRequest

PROMISE = Objective(ttft_s=1.0, tpot_s=0.1)


def record(*tokens, arrival_s=10.0, failure="", output_tokens=None):
    """``tokens``: (count, seconds after arrival)."""
    made = Record(TraceRequest(arrival_s, 100, output_tokens or sum(count for count, _ in tokens) or 1), arrival_s)
    for count, after_s in tokens:
        made.came(count, arrival_s + after_s)
    made.ended_s, made.failure = arrival_s + 100, failure
    return made


@pytest.mark.parametrize(
    ("made", "is_good", "is_good_by_token"),
    [
        pytest.param(record((1, 1.0), (10, 2.0)), True, True, id="exactly as promised"),
        pytest.param(record((1, 1.01), (10, 1.5)), False, False, id="first token late"),
        pytest.param(record((1, 0.5), (10, 1.51)), False, True, id="mean too slow, but early enough before"),
        pytest.param(record((1, 0.5), (1, 2.0), (9, 1.4)), True, False, id="a pause that the mean hides"),
        pytest.param(record((1, 0.9)), True, True, id="one token has no TPOT"),
        pytest.param(record(failure="full"), False, False, id="refused"),
        pytest.param(record((1, 0.1), failure="lost"), False, False, id="failed on the way"),
        pytest.param(record((1, 0.1), (1, 0.2), output_tokens=3), False, False, id="truncated"),
    ],
)
def test_good_is_what_keeps_both_promises(made, is_good, is_good_by_token):
    """TTFT from arrival and mean TPOT, of a complete answer; each token's own deadline is told beside it."""
    assert PROMISE.is_met(made) is is_good
    assert PROMISE.is_met_by_each_token(made) is is_good_by_token


def test_ends_of_a_run_are_not_counted_and_misses_are():
    """Of 100 requests 10 to 95 count; one refused there is a miss."""
    records = [record((1, 0.5), (10, 1.0), arrival_s=float(second)) for second in range(100)]
    records[5] = record(failure="full", arrival_s=5.0)
    records[50] = record(failure="full", arrival_s=50.0)
    records[99] = record(failure="full", arrival_s=99.0)
    found = outcome(records, PROMISE)
    assert (found.offered, found.good, found.failed) == (85, 84, 1)
    assert found.rate == pytest.approx(1.0)
    assert found.good_per_s == pytest.approx(84 / 85)


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ([(10, 1.0), (20, 0.95), (30, 0.85)], 25.0),
        ([(30, 0.85), (10, 1.0), (20, 0.95)], 25.0),
        ([(10, 0.8), (20, 0.95)], None),
        ([(10, 1.0), (20, 0.9), (30, 0.9)], 30),
        ([(10, 1.0), (20, 0.5), (30, 0.95)], 12.0),
        ([], None),
    ],
)
def test_goodput_is_the_rate_before_the_first_that_misses(sweep, expected):
    """On the line between the last good rate and the first bad one. What comes behind that one does not count: it was luck."""
    assert goodput(sweep) == (pytest.approx(expected) if expected is not None else None)


def test_gaps_and_quantiles():
    """The longest gap is between any two tokens, told or reported; the worst tenth of few is one."""
    made = record((1, 0.1), (1, 0.6), (5, 0.8))
    assert made.longest_gap_s == pytest.approx(0.5)
    made.paused(0.7)
    assert made.longest_gap_s == pytest.approx(0.7)
    assert worst([1.0, 3.0, 2.0]) == 3.0
    assert worst([]) == 0.0
    assert quantiles([3.0, 1.0, 2.0])[::50] == [1.0, 2.0, 3.0]


def test_plots_are_whole_and_say_what_is_what():
    """Every line is drawn and named; names cannot break the file."""
    svg = Plot("a < b", "x", "y", [Line("one & two", [(0, 0), (10, 1)]), cdf("dist", [0.0, 5.0, 10.0])], mark_x=5, mark_y=0.9).svg()
    assert svg.startswith("<svg")
    assert svg.rstrip().endswith("</svg>")
    assert svg.count('class="line"') == 4
    assert "one &amp; two" in svg
    assert "a &lt; b" in svg
