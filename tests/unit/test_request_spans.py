"""A request that has ended, as spans: what is under what, how long it took, what is said of it."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.messages import LegKind
from core.ids import LegId, RequestId, WorkerId
from core.metrics.words import Why
from core.trace import Anchor, Span, TraceContext
from engine.base import Transfer
from router.events import FailKind
from router.http_trace import HttpTrace
from router.instructions import Fail
from router.reason import Reason
from router.request_spans import request_spans
from router.service import WantedService
from router.timeline import Timeline
from router.track import Track

P, D, E = WorkerId("p"), WorkerId("d"), WorkerId("e")
ONE, TWO, THREE = LegId("r:0"), LegId("r:1"), LegId("r:2")
BEGAN_S = 50.0
UNIX_NS = 1_000_000_000_000_000_000


def new_track() -> Track:
    numbers = itertools.count(1)
    http = HttpTrace(
        TraceContext("a" * 32, "b" * 16), "c" * 16, Anchor(UNIX_NS, BEGAN_S - 1.0), lambda size: next(numbers), lambda spans: None
    )
    return Track.of(http, BEGAN_S)


def told(track: Track, finished_s: float, fail: Fail | None = None, **known: object) -> list[Span]:
    timeline = Timeline(RequestId("r"), "c", 1000.0, BEGAN_S, 20, 8, outcome="finished", finished_s=finished_s)
    for name, value in known.items():
        setattr(timeline, name, value)
    return request_spans(track, timeline, WantedService(class_name="chat"), fail)


def drawn(spans: list[Span]) -> list[str]:
    """The tree in lines, with when each began and ended, in seconds since the request came."""
    lines: list[str] = []

    def draw(span: Span, depth: int) -> None:
        begin_s, end_s = ((at_ns - UNIX_NS) / 1e9 - 1.0 for at_ns in (span.begin_ns, span.end_ns))
        ended = f" {span.attributes['baton.leg.ended']}" if "baton.leg.ended" in span.attributes else ""
        lines.append(f"{'  ' * depth}{span.name} {begin_s:g}-{end_s:g}{ended}")
        for below in spans:
            if below.parent_id == span.context.span_id:
                draw(below, depth + 1)

    draw(spans[0], 0)
    assert len(lines) == len(spans)
    return lines


def split() -> list[Span]:
    track = new_track()
    track.sent(ONE, LegKind.PREFILL, P, 1, 0, 51.0)
    track.begun(ONE, 0.5, 53.0)
    track.sent(TWO, LegKind.DECODE, D, 1, 1, 53.0)
    track.moved(Transfer(TWO, 1000, 0.25))
    track.moved(Transfer(TWO, 1000, 0.5))  # another rank, beside it
    track.begun(TWO, 0.1, 54.0)
    return told(track, 8.0)


def whole_after_waiting() -> list[Span]:
    track = new_track()
    track.waits(50.5, False)
    track.asks(51.0, False)  # it is its turn, and there is room
    track.sent(ONE, LegKind.WHOLE, D, 1, 0, 52.0)
    track.begun(ONE, 0.0, 54.0)
    return told(track, 8.0)


def resumed() -> list[Span]:
    track = new_track()
    track.sent(ONE, LegKind.WHOLE, D, 1, 0, 51.0)
    track.begun(ONE, 0.0, 52.0)
    track.lost(P, "somebody else")
    track.lost(D, "it died")
    track.asks(53.0, False)
    track.waits(53.0, False)
    track.sent(TWO, LegKind.WHOLE, E, 2, 5, 54.0)
    track.begun(TWO, 0.0, 55.0)
    return told(track, 8.0)


def handed_to_another() -> list[Span]:
    track = new_track()
    track.sent(ONE, LegKind.PREFILL, P, 1, 0, 50.0)
    track.begun(ONE, 0.0, 51.0)
    track.sent(TWO, LegKind.DECODE, D, 1, 1, 51.0)
    track.trouble(TWO, "refused", "full")
    track.asks(52.0, True)
    track.waits(52.0, True)
    track.sent(THREE, LegKind.DECODE, E, 2, 1, 53.0)
    track.begun(THREE, 0.0, 54.0)
    return told(track, 8.0)


def left_by_its_client() -> list[Span]:
    track = new_track()
    track.sent(ONE, LegKind.PREFILL, P, 1, 0, 50.0)
    return told(track, 2.0, outcome="cancelled")


def moved_and_failed() -> list[Span]:
    track = new_track()
    track.sent(ONE, LegKind.WHOLE, D, 1, 0, 50.0)
    track.begun(ONE, 0.0, 51.0)
    track.asks(52.0, False)
    track.sent(TWO, LegKind.WHOLE, E, 2, 3, 52.0)
    return told(track, 3.0, Fail(FailKind.ENGINE, "the engine reported an error"), outcome="failed")


TREES = {
    "split": (
        split,
        [
            "request 0-8",
            "  route 0-1",
            "  leg prefill 1-3 finished",
            "    engine_queue 1-1.5",
            "    prefill 1.5-3",
            "  leg decode 3-8 finished",
            "    transfer 3-3.5",
            "    decode_wait 3.5-4",
            "    decode 4-8",
        ],
    ),
    "whole, after it waited": (
        whole_after_waiting,
        [
            "request 0-8",
            "  route 0-0.5",
            "  queue 0.5-2",
            "  leg whole 2-8 finished",
            "    prefill 2-4",
            "    decode 4-8",
        ],
    ),
    "resumed": (
        resumed,
        [
            "request 0-8",
            "  route 0-1",
            "  leg whole 1-3 lost",
            "    prefill 1-2",
            "    decode 2-3",
            "  queue 3-4",
            "  leg whole 4-8 finished",
            "    prefill 4-5",
            "    decode 5-8",
        ],
    ),
    "handed to another": (
        handed_to_another,
        [
            "request 0-8",
            "  leg prefill 0-1 finished",
            "    prefill 0-1",
            "  leg decode 1-2 refused",
            "    decode_wait 1-2",
            "  handoff_wait 2-3",
            "  leg decode 3-8 finished",
            "    decode_wait 3-4",
            "    decode 4-8",
        ],
    ),
    "left by its client": (left_by_its_client, ["request 0-2", "  leg prefill 0-2 aborted", "    prefill 0-2"]),
    "moved, and failed by the next engine": (
        moved_and_failed,
        [
            "request 0-3",
            "  leg whole 0-2 moved",
            "    prefill 0-1",
            "    decode 1-2",
            "  leg whole 2-3 failed",
            "    prefill 2-3",
        ],
    ),
    "never sent": (lambda: told(new_track(), 1.0), ["request 0-1", "  route 0-1"]),
}


@pytest.mark.parametrize("case", TREES)
def test_the_tree(case: str) -> None:
    """Phases follow each other without a gap, legs say how they ended; what took no time is not there."""
    made, lines = TREES[case]
    assert drawn(made()) == lines


def test_what_is_said_of_legs() -> None:
    """Where each was, in which attempt, behind how many tokens, and why it came to nothing."""
    [lost, went_on] = [span for span in resumed() if span.name == "leg whole"]
    assert (lost.error, went_on.error) == ("it died", None)
    said = {name: went_on.attributes[f"baton.{name}"] for name in ("worker", "attempt", "emitted_tokens")}
    assert said == {"worker": "e", "attempt": 2, "emitted_tokens": 5}
    [decode] = [span for span in split() if span.name == "leg decode"]
    assert decode.attributes["baton.transfer_bytes"] == 2000


def test_a_refusal_says_why() -> None:
    """By the word with which it is counted, and in those that its client got."""
    fail = Fail(FailKind.OVERLOADED, Reason(Why.TTFT, "the first token would come too late"))
    request = told(new_track(), 0.1, fail, outcome="failed")[0]
    assert (request.error, request.attributes["baton.refusal.reason"]) == ("the first token would come too late", Why.TTFT)
    assert (request.attributes["baton.outcome"], request.attributes["baton.plan"]) == ("refused", "none")
    gone = told(new_track(), 0.1, Fail(FailKind.TIMED_OUT, "not done"), outcome="failed")[0]
    assert (gone.attributes["baton.outcome"], "baton.refusal.reason" in gone.attributes) == ("timed_out", False)


STEPS = st.lists(st.tuples(st.sampled_from(["asks", "waits", "sent", "begun", "trouble", "moved"]), st.floats(0.0, 1.0)), max_size=40)


@given(STEPS, st.sampled_from(list(LegKind)), st.booleans())
def test_phases_add_up_whatever_happens(steps: list[tuple[str, float]], kind: LegKind, kept: bool) -> None:
    """In whatever order: nothing of the time is missing, and nothing is there twice."""
    track, now_s, legs = new_track(), BEGAN_S, 0
    for step, passed_s in steps:
        now_s += passed_s
        if step == "sent":
            track.sent(LegId(f"r:{legs}"), kind, P, 1, 0, now_s)
            legs += 1
        elif step == "begun":
            track.begun(LegId(f"r:{legs - 1}"), passed_s, now_s)
        elif step == "trouble":
            track.trouble(LegId(f"r:{legs - 1}"), "refused", "full")
        elif step == "moved":
            track.moved(Transfer(LegId(f"r:{legs - 1}"), 1, passed_s))
        else:
            getattr(track, step)(now_s, kept)
    spans = told(track, now_s + 1.0 - BEGAN_S)
    phases = [span for span in spans if "baton.phase" in span.attributes]
    assert sum(span.end_ns - span.begin_ns for span in phases) == spans[0].end_ns - spans[0].begin_ns
    assert {span.context.trace_id for span in spans} == {"a" * 32}
    assert len({span.context.span_id for span in spans}) == len(spans)


def test_a_trace_is_bounded() -> None:
    """A request that is refused all the time has its last stretch to the end."""
    track = new_track()
    for number in range(1000):
        track.sent(LegId(f"r:{number}"), LegKind.WHOLE, P, number, 0, BEGAN_S + number)
        track.asks(BEGAN_S + number + 0.5, False)
    spans = told(track, 2000.0)
    assert len(spans) < 600
    phases = [span for span in spans if "baton.phase" in span.attributes]
    assert sum(span.end_ns - span.begin_ns for span in phases) == 2000 * 10**9


def test_ids_come_from_one_source() -> None:
    """Whoever draws the same bits makes the same trace."""

    def made() -> list[Span]:
        track = Track.of(
            HttpTrace(TraceContext("a" * 32, "b" * 16), "", Anchor(0, 0.0), random.Random(7).getrandbits, lambda spans: None), 0.0
        )
        track.sent(ONE, LegKind.WHOLE, D, 1, 0, 1.0)
        return told(track, 2.0)

    assert made() == made()
