"""A request's record: phases that add up, and an honest answer to whether the KV was really handed over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import LegId, RequestId, WorkerId
from core.metrics.words import Part
from engine.base import Transfer
from router.plan import Ask, Decision, Plan, Scored
from router.timeline import Timeline, TimelineBook

P, D = WorkerId("p"), WorkerId("d")
SPLIT = Decision(Scored(Plan(P, D), 1.0, "cheapest"), (), {}, "split over two workers")
WHOLE = Decision(Scored(Plan(P, P), 1.0, "only one"), (), {}, "one worker")
ASK = Ask(RequestId("r"), 20, 10, True)
NOBODY = Decision(None, (), {}, "no worker can take it")


def timeline(decision: Decision | None = SPLIT, client: str = "c", request: str = "r", **values: Any) -> Timeline:
    made = Timeline(RequestId(request), client, 1000.0, 50.0, 20, 8)
    if decision is not None:
        made.decided(ASK, decision)
    for name, value in values.items():
        setattr(made, name, value)
    return made


PHASES: dict[str, tuple[Timeline, dict[str, float | None]]] = {
    "split": (
        timeline(sent_s=1.0, queue_s=0.5, first_token_s=3.0, handed_off_s=3.0, decoding_s=4.0, finished_s=8.0),
        {"route": 1.0, "queue": 0.5, "prefill": 1.5, "handoff": 1.0, "decode": 4.0},
    ),
    "split, decode samples the first token": (
        timeline(sent_s=1.0, queue_s=0.5, first_token_s=4.0, handed_off_s=3.0, decoding_s=4.0, finished_s=8.0),
        {"route": 1.0, "queue": 0.5, "prefill": 1.5, "handoff": 1.0, "decode": 4.0},
    ),
    "whole": (
        timeline(WHOLE, sent_s=1.0, queue_s=0.5, decoding_s=3.0, finished_s=8.0),
        {"route": 1.0, "queue": 0.5, "prefill": 1.5, "handoff": None, "decode": 5.0},
    ),
    "no queue told": (
        timeline(WHOLE, sent_s=1.0, decoding_s=3.0, finished_s=8.0),
        {"route": 1.0, "queue": None, "prefill": 2.0, "handoff": None, "decode": 5.0},
    ),
    "handed off in no time": (
        timeline(sent_s=0.0, queue_s=0.0, first_token_s=0.0, handed_off_s=0.0, decoding_s=1.0, finished_s=2.0),
        {"route": 0.0, "queue": 0.0, "prefill": 0.0, "handoff": 1.0, "decode": 1.0},
    ),
    "prefilling": (timeline(sent_s=1.0), {"route": 1.0, "queue": None, "prefill": None, "handoff": None, "decode": None}),
    "gone while it was computed": (
        timeline(sent_s=1.0, queue_s=0.5, finished_s=3.0),
        {"route": 1.0, "queue": 0.5, "prefill": 1.5, "handoff": None, "decode": None},
    ),
    "nowhere to go": (timeline(NOBODY, finished_s=1.0), {"route": 1.0, "queue": None, "prefill": None, "handoff": None, "decode": None}),
}


@pytest.mark.parametrize(("record", "phases"), PHASES.values(), ids=PHASES.keys())
def test_phases(record: Timeline, phases: dict[str, float | None]) -> None:
    """Seconds of each; None for what did not happen."""
    assert record.phases == phases


@given(st.lists(st.floats(0, 1000), min_size=5, max_size=5).map(sorted), st.floats(0, 1), st.booleans(), st.booleans())
def test_phases_add_up(times: list[float], queued: float, split: bool, counts: bool) -> None:
    """To the whole time, whichever worker sampled the first token."""
    sent, handed_off, decoding, finished = times[0], times[2], times[3], times[4]
    queue = (handed_off - sent) * queued
    if split:
        first = handed_off if counts else decoding
        record = timeline(
            sent_s=sent, queue_s=queue, first_token_s=first, handed_off_s=handed_off, decoding_s=decoding, finished_s=finished
        )
    else:
        record = timeline(WHOLE, sent_s=sent, queue_s=queue, decoding_s=handed_off, finished_s=finished)
    assert sum(spent for spent in record.phases.values() if spent is not None) == pytest.approx(finished)
    assert min(spent for spent in record.phases.values() if spent is not None) >= -1e-9


PARTS: dict[str, tuple[Timeline, dict[Part, float]]] = {
    "split": (
        timeline(
            sent_s=1.0, queue_s=0.5, waited_s=0.75, handed_off_s=3.0, decoding_s=4.0, finished_s=8.0, transfer_bytes=1, transfer_s=0.25
        ),
        {Part.ROUTE: 0.25, Part.QUEUE: 0.75, Part.ENGINE_QUEUE: 0.5, Part.PREFILL: 1.5, Part.TRANSFER: 0.25, Part.DECODE_WAIT: 0.75}
        | {Part.DECODE: 4.0},
    ),
    "all was there already": (
        timeline(sent_s=1.0, handed_off_s=3.0, decoding_s=4.0, finished_s=8.0),
        {Part.ROUTE: 1.0, Part.QUEUE: 0.0, Part.PREFILL: 2.0, Part.DECODE_WAIT: 1.0, Part.DECODE: 4.0},
    ),
    "one worker": (
        timeline(WHOLE, sent_s=1.0, queue_s=0.5, decoding_s=3.0, finished_s=8.0),
        {Part.ROUTE: 1.0, Part.QUEUE: 0.0, Part.ENGINE_QUEUE: 0.5, Part.PREFILL: 1.5, Part.DECODE: 5.0},
    ),
    "gone before a decode worker had it": (
        timeline(sent_s=1.0, handed_off_s=3.0, finished_s=4.5),
        {Part.ROUTE: 1.0, Part.QUEUE: 0.0, Part.PREFILL: 2.0, Part.HANDOFF_WAIT: 1.5},
    ),
}


@pytest.mark.parametrize(("record", "parts"), PARTS.values(), ids=PARTS.keys())
def test_parts(record: Timeline, parts: dict[Part, float]) -> None:
    """Phases in more detail: the router's queue apart from the router, the transfer apart from the waiting around it."""
    assert record.parts == parts


def test_a_refused_hand_over_was_waiting() -> None:
    """The prompt was kept meanwhile; what the next decode worker took is told apart from that."""
    record = timeline(sent_s=1.0, handed_off_s=3.0)
    record.decided(ASK, SPLIT, 5.0)
    record.handed_off_s, record.decoding_s, record.finished_s = 5.0, 5.5, 6.0
    assert {part: record.parts[part] for part in (Part.PREFILL, Part.HANDOFF_WAIT, Part.DECODE_WAIT, Part.DECODE)} == {
        Part.PREFILL: 2.0,
        Part.HANDOFF_WAIT: 2.0,
        Part.DECODE_WAIT: 0.5,
        Part.DECODE: 0.5,
    }
    assert record.phases["handoff"] == 2.5


TRANSFERRED: dict[str, tuple[Timeline, bool | None]] = {
    "pulled": (timeline(decoding_s=1.0, transferred_tokens=20, recomputed_tokens=1), True),
    "all pulled": (timeline(decoding_s=1.0, transferred_tokens=20, recomputed_tokens=0), True),
    "was there already": (timeline(decoding_s=1.0, decode_cached_tokens=20, recomputed_tokens=1), True),
    "partly there, partly pulled": (timeline(decoding_s=1.0, decode_cached_tokens=16, transferred_tokens=4, recomputed_tokens=1), True),
    "computed again": (timeline(decoding_s=1.0, recomputed_tokens=21), False),
    "partly computed again": (timeline(decoding_s=1.0, transferred_tokens=16, recomputed_tokens=5), False),
    "a prompt of one token, computed again": (timeline(decoding_s=1.0, recomputed_tokens=1), False),
    "not decoding yet": (timeline(), None),
    "not split": (timeline(WHOLE, decoding_s=None, first_token_s=1.0), None),
    "nowhere": (timeline(NOBODY), None),
}


@pytest.mark.parametrize(("record", "wanted"), TRANSFERRED.values(), ids=TRANSFERRED.keys())
def test_was_transferred(record: Timeline, wanted: bool | None) -> None:
    """True only if decode really worked on prefill's KV."""
    assert record.was_transferred is wanted


def test_a_new_attempt_starts_a_new_record() -> None:
    """What a lost worker did is not mixed with what its replacement did, but the time it took is part of the whole."""
    record = timeline(
        sent_s=1.0, queue_s=0.5, handed_off_s=3.0, decoding_s=4.0, cached_tokens=5, transferred_tokens=20, recomputed_tokens=1
    )
    record.moved(Transfer(LegId("r:1"), 500, 0.5))
    record.decided(ASK, WHOLE, 5.0)
    record.sent_s, record.decoding_s, record.finished_s = 6.0, 7.0, 9.0
    assert record.phases == {"route": 2.0, "queue": 0.5, "prefill": 2.5, "handoff": 1.0, "decode": 3.0}
    assert (record.transfer_bytes, record.transfer_s, record.transferred_tokens, record.cached_tokens) == (0, 0.0, 0, 0)
    assert (record.attempts, record.plan_reason, record.policy_reason, record.was_transferred) == (2, "one worker", "only one", None)


@given(
    st.lists(st.tuples(st.sampled_from(["sent_s", "handed_off_s", "decoding_s", "again"]), st.floats(0, 9)), max_size=12), st.floats(0, 9)
)
def test_phases_add_up_over_attempts(steps: list[tuple[str, float]], rest: float) -> None:
    """Wherever each attempt ended."""
    record, now = timeline(), 0.0
    order = ["sent_s", "handed_off_s", "decoding_s"]
    for step, seconds in steps:
        now += seconds
        if step == "again":
            record.decided(ASK, SPLIT, now)
        elif getattr(record, step) is None and all(getattr(record, before) is not None for before in order[: order.index(step)]):
            setattr(record, step, now)
    record.finished_s = now + rest
    assert sum(spent for spent in record.phases.values() if spent is not None) == pytest.approx(record.finished_s, abs=1e-9)


def test_transfers_of_several_ranks() -> None:
    """The ranks of one engine pull side by side: bytes add up, the slowest says how long it took."""
    record = timeline()
    record.moved(Transfer(LegId("r:1"), 500, 0.5))
    record.moved(Transfer(LegId("r:1"), 300, 0.25))
    assert (record.transfer_bytes, record.transfer_s) == (800, 0.5)


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ({"first_token_s": 1.0, "finished_s": 3.0, "output_tokens": 5}, 2.0),
        ({"first_token_s": 1.0, "finished_s": 3.0, "output_tokens": 1}, None),
        ({"first_token_s": 1.0, "output_tokens": 5}, None),
        ({"first_token_s": 1.0, "finished_s": 1.0, "output_tokens": 5}, None),
    ],
)
def test_tokens_per_second(values: dict[str, Any], rate: float | None) -> None:
    """After the first token; None where there is nothing to divide."""
    assert timeline(**values).tokens_per_s == rate


def test_a_record_is_plain_data() -> None:
    """JSON, with what follows from the fields, without the router's own clock."""
    data = json.loads(json.dumps(timeline(sent_s=1.0).as_dict()))
    assert data["was_split"] is True
    assert (data["was_transferred"], data["phases"]["route"], data["tokens_per_s"]) == (None, 1.0, None)
    assert "began_s" not in data


# -- the book ------------------------------------------------------------------------------------------------------------------


def names(records: list[Timeline]) -> list[str]:
    return [record.request for record in records]


def test_a_clients_request_is_found_with_all_its_children() -> None:
    """In order of arrival; nothing for an unknown one."""
    book = TimelineBook()
    for client, request in (("a", "a0"), ("b", "b0"), ("a", "a1")):
        book.add(timeline(client=client, request=request))
    assert (names(book.of("a")), names(book.of("b")), book.of("c")) == (["a0", "a1"], ["b0"], [])


def test_the_newest_come_first() -> None:
    """Children of one request too, and a client that asks again is new again."""
    book = TimelineBook()
    for client, request in (("a", "a0"), ("a", "a1"), ("b", "b0"), ("c", "c0"), ("b", "b1")):
        book.add(timeline(client=client, request=request))
    assert names(book.newest(10)) == ["b1", "b0", "c0", "a1", "a0"]
    assert names(book.newest(1)) == ["b1"]
    assert book.newest(0) == []


def test_the_book_is_bounded_by_requests() -> None:
    """The oldest are forgotten."""
    book = TimelineBook(limit=3)
    for number in range(10):
        book.add(timeline(client=f"c{number}", request=f"r{number}"))
    assert names(book.newest(10)) == ["r9", "r8", "r7"]
    assert book.of("c6") == []


def test_the_book_is_bounded_for_a_client_that_never_changes_its_id() -> None:
    """A health check with a constant ``X-Request-Id`` must not fill the memory, nor push its newest record out."""
    book = TimelineBook(limit=3)
    book.add(timeline(client="other", request="other"))
    for number in range(100):
        book.add(timeline(client="same", request=f"r{number}"))
    assert names(book.of("same")) == ["r97", "r98", "r99"]
    book.add(timeline(client="third", request="third"))
    assert names(book.newest(10)) == ["third", "r99", "r98"]
