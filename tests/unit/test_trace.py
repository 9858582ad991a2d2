"""W3C Trace Context: what is taken from a caller's headers, what is made where there are none, and what goes on."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.trace import Anchor, TraceContext, incoming, new_trace

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"

TRACEPARENTS: dict[str, tuple[list[str], TraceContext | None]] = {
    "none": ([], None),
    "sampled": ([GOOD], TraceContext(TRACE, SPAN, True)),
    "not sampled": ([f"00-{TRACE}-{SPAN}-00"], TraceContext(TRACE, SPAN, False)),
    "other flags": ([f"00-{TRACE}-{SPAN}-fe"], TraceContext(TRACE, SPAN, False)),
    "blanks around": ([f" {GOOD}\t"], TraceContext(TRACE, SPAN, True)),
    "a version to come, with more in it": ([f"cc-{TRACE}-{SPAN}-01-what-the-future"], TraceContext(TRACE, SPAN, True)),
    "a version to come, with something stuck to it": ([f"cc-{TRACE}-{SPAN}-01.what"], None),
    "this version, with more in it": ([f"{GOOD}-more"], None),
    "no version": ([f"ff-{TRACE}-{SPAN}-01"], None),
    "no trace": ([f"00-{'0' * 32}-{SPAN}-01"], None),
    "no span": ([f"00-{TRACE}-{'0' * 16}-01"], None),
    "capital letters": ([GOOD.upper()], None),
    "too short": ([GOOD[:-1]], None),
    "two of them": ([GOOD, GOOD], None),
    "empty": ([""], None),
    "a line end": ([GOOD + "\n"], None),
    "something else": (["curl"], None),
}


@pytest.mark.parametrize("case", TRACEPARENTS)
def test_what_callers_send(case: str) -> None:
    """What cannot be read is as good as none: a new trace is begun, nobody is refused."""
    given, expected = TRACEPARENTS[case]
    assert incoming(given) == expected


STATES: dict[str, tuple[list[str], str]] = {
    "as it is": (["a=1,b=2"], "a=1,b=2"),
    "over several headers": (["a=1", "t@v=2"], "a=1,t@v=2"),
    "empty members": (["a=1, ,\t,b=2"], "a=1,b=2"),
    "a name twice": (["a=1,a=2"], ""),
    "no name": (["=1"], ""),
    "a capital": (["A=1"], ""),
    "33 of them": ([",".join(f"k{number}=1" for number in range(33))], ""),
    "too long to be carried": ([f"a={'x' * 255},b={'x' * 255},c=1"], ""),
    "not text": (["a=\u00e9"], ""),
}


@pytest.mark.parametrize("case", STATES)
def test_the_state_goes_on_or_is_left_out(case: str) -> None:
    """The trace goes on in any case."""
    given, expected = STATES[case]
    found = incoming([GOOD], given)
    assert found is not None
    assert (found.trace_id, found.state) == (TRACE, expected)


@given(st.text(), st.lists(st.text(), max_size=3))
def test_nothing_a_caller_sends_is_an_error(traceparent: str, tracestates: list[str]) -> None:
    """And what comes out can be sent on."""
    found = incoming([traceparent], tracestates)
    if found is not None:
        assert incoming([found.headers["traceparent"]], [found.state]) == found


def test_children() -> None:
    """Of the same trace, with the same state, in places of their own; as headers and back they are the same."""
    above = TraceContext(TRACE, SPAN, True, "a=1")
    bits = random.Random(1).getrandbits
    children = {above.child(bits).span_id for _ in range(100)}
    assert len(children) == 100
    child = above.child(bits)
    assert child.headers == {"traceparent": f"00-{TRACE}-{child.span_id}-01", "tracestate": "a=1"}
    assert incoming([child.headers["traceparent"]], [child.headers["tracestate"]]) == child
    assert set(TraceContext(TRACE, SPAN).headers) == {"traceparent"}


def test_no_id_is_zero() -> None:
    """All zero means none."""
    made = new_trace(lambda size: 0, 1.0).child(lambda size: 0)
    assert (int(made.trace_id, 16), int(made.span_id, 16)) == (1, 1)


def test_sampling() -> None:
    """None of them, all, or about the share; who picks by the same share picks the same ones, who picks fewer a part of them."""
    many = [random.Random(number).getrandbits(128) for number in range(2000)]

    def picked(sample: float) -> set[int]:
        return {number for number in many if new_trace(lambda size, number=number: number, sample).sampled}  # type: ignore[misc]

    assert (len(picked(0.0)), len(picked(1.0))) == (0, 2000)
    assert 150 < len(picked(0.1)) < 250
    assert picked(0.1) < picked(0.5)


def test_an_anchor_ties_two_clocks() -> None:
    """Before and after, and where a second of one is some of the other."""
    assert Anchor(10**18, 5.0).at_ns(5.0) == 10**18
    assert Anchor(10**18, 5.0).at_ns(6.5) == 10**18 + 1_500_000_000
    assert Anchor(10**18, 5.0, slowdown=4.0).at_ns(4.5) == 10**18 - 2_000_000_000
