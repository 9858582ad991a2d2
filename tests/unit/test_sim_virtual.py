"""The simulated engine on a virtual clock: step by step and in leaps."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ids import LegId
from engine.sim_blocks import BlockHash, BlocksStored
from engine.sim_config import SimulatedEngineConfig
from engine.sim_content import LengthPrompt
from engine.sim_request import Emitted, RemotePrompt, SimRequest
from engine.sim_timing import ConstantTime, PolynomialTime
from engine.sim_virtual import Told, VirtualEngine

BLOCK = 4
A, B, C = LegId("a"), LegId("b"), LegId("c")
TIMING = PolynomialTime(
    prefill_base_s=0.011,
    prefill_token_s=0.0013,
    prefill_square_s=1.7e-6,
    decode_base_s=0.0071,
    decode_request_s=0.00031,
    decode_context_s=1.9e-6,
)


def make(leaps: bool = True, **changes: Any) -> VirtualEngine:
    set_up = {"block_size_tokens": BLOCK, "num_blocks": 64, "max_model_len": 200, "max_num_seqs": 6, "max_num_batched_tokens": 32}
    config = {"timing": TIMING, "lease_s": 10.0, "kv_bytes_per_token": 10, **set_up, **changes}
    return VirtualEngine(SimulatedEngineConfig(**config), leaps=leaps)


def names(first: int, count: int) -> tuple[BlockHash, ...]:
    return tuple(BlockHash(first + index) for index in range(count))


def ask(leg: LegId, tokens: int = 8, output: int = 4, first: int = 0, **changes: Any) -> SimRequest:
    return SimRequest(leg, LengthPrompt(tokens, names(first, tokens // BLOCK)), output, **changes)


def emitted_of(told: Sequence[Told]) -> list[Emitted]:
    return [emitted for one in told for emitted in one.emitted]


def test_only_the_first_and_the_last_token_of_a_known_length_are_told() -> None:
    """The last says how the request fared; the tokens in between are counted, not listed."""
    engine = make(timing=ConstantTime(0.5))
    engine.add(ask(A, output=10), 1.0)
    told = engine.advance(100.0)
    first, last = emitted_of(told)
    assert [one.at_s for one in told if one.emitted] == [1.5, 6.0]
    assert (first.token, first.ended, last.ended) == (0, "", "length")
    assert first.counts is not None
    assert last.timeline is not None
    line = last.timeline
    assert (line.added_s, line.scheduled_s, line.first_token_s, line.last_token_s) == (1.0, 1.0, 1.5, 6.0)
    assert (line.longest_gap_s, line.tokens, line.preemptions) == (0.5, 10, 0)


def test_an_idle_engine_has_nothing_to_do_until_it_is_asked() -> None:
    """Then it begins at once."""
    engine = make()
    assert engine.next_event_s == float("inf")
    assert engine.advance(5.0) == []
    engine.add(ask(A), 7.0)
    assert engine.next_event_s == 7.0
    engine.advance(7.0)
    assert engine.busy
    assert engine.next_event_s > 7.0


def test_a_newcomer_ends_a_leap_with_the_step_under_way() -> None:
    """It waits for no more than that step."""
    engine = make(timing=ConstantTime(1.0))
    engine.add(ask(A, output=50), 0.0)
    engine.advance(2.0)
    assert engine.next_event_s == 50.0
    engine.add(ask(B, output=2, first=100), 20.5)
    assert engine.next_event_s == 21.0
    assert [(one.leg, told.at_s) for told in engine.advance(60.0) for one in told.emitted] == [(B, 22.0), (B, 23.0), (A, 50.0)]


@pytest.mark.parametrize("leaps", [True, False])
def test_what_holds_it_up_makes_all_later(leaps: bool) -> None:
    """Once, and the step under way with it, whatever else is asked meanwhile; an engine with nothing to do does not mind."""
    engine = make(leaps, timing=ConstantTime(1.0))
    engine.held_up(5.0, 0.0)
    engine.add(ask(A, output=50), 0.0)
    engine.advance(20.5)
    engine.held_up(0.25, 20.5)
    assert engine.next_event_s == 21.25
    engine.add(ask(B, output=2, first=100), 21.1)
    assert engine.next_event_s == 21.25
    told = [(one.leg, told.at_s) for told in engine.advance(60.0) for one in told.emitted]
    assert [one for one in told if one[0] == B] == [(B, 22.25), (B, 23.25)]
    assert told[-1] == (A, 50.25)


def test_counts_within_a_leap() -> None:
    """Tokens and free blocks are those of the moment that is asked for, also where nothing was told."""
    engine = make(timing=ConstantTime(1.0))
    engine.add(ask(A, tokens=8, output=20), 0.0)
    engine.advance(2.0)
    assert [engine.tokens_made(A, now) for now in (2.0, 3.5, 10.0)] == [2, 3, 10]
    assert [engine.stats(now).free_blocks for now in (2.5, 6.5, 10.5)] == [61, 60, 59]
    engine.advance(20.0)
    assert engine.tokens_made(A, 20.0) is None
    assert engine.stats(20.0).free_blocks == 64


def test_a_prompt_goes_from_one_engine_to_another() -> None:
    """Kept under a lease by one, pulled by the other, released by its reader."""
    prefill, decode = make(timing=ConstantTime(1.0)), make(timing=ConstantTime(1.0))
    prefill.add(ask(A, tokens=13, output=1, keep=True), 0.0)
    [emitted] = emitted_of(prefill.advance(1.0))
    assert emitted.kept is not None
    source = RemotePrompt("prefill", A, "", 0, emitted.kept.tokens)
    decode.add(ask(A, tokens=13, output=4, emitted=[0], remote=source), 1.0)
    [told] = decode.advance(1.0)
    assert [(pull.leg, pull.transfer_bytes) for pull in told.pulls] == [(A, 4 * BLOCK * 10)]
    decode.pulled(A, 3.0)
    assert prefill.release(A, 3.0)
    told, *rest = decode.advance(100.0)
    assert [(transfer.leg, transfer.transfer_s) for transfer in told.transfers] == [(A, 2.0)]
    assert [one.at_s for one in [told, *rest] if one.emitted] == [4.0, 6.0]
    assert [(one.at_s, list(one.released)) for one in prefill.advance(100.0)] == [(3.0, [A])]
    assert prefill.stats(9.0).free_blocks == decode.stats(9.0).free_blocks == 64


def test_a_lease_ends_within_a_leap() -> None:
    """Its blocks are free at the end of the step in which it expires, for somebody who waits for them."""
    engine = make(timing=ConstantTime(1.0), num_blocks=50, lease_s=4.5)
    engine.add(ask(A, tokens=40, output=1, keep=True), 0.0)
    engine.advance(2.0)
    engine.add(ask(B, tokens=4, output=100, first=50), 2.0)
    engine.add(ask(C, tokens=160, output=1, first=100), 2.0)
    told = engine.advance(8.0)
    assert [(one.at_s, list(one.expired)) for one in told if one.expired] == [(8.0, [A])]
    assert engine.stats(8.0).running == 2


def test_output_blocks_can_be_found_where_they_have_names() -> None:
    """The first of them holds the end of the prompt; a follow-up finds prompt and output, one without names the prompt only."""
    engine = make()
    named = LengthPrompt(10, names(0, 2), names(50, 4))
    engine.add(SimRequest(A, named, 12), 0.0)
    told = engine.advance(10.0)
    stored = [event for one in told for event in one.block_events if isinstance(event, BlocksStored)]
    assert [name for event in stored for name in event.hashes] == [0, 1, 50, 51, 52]
    assert stored[-1].parent is not None
    engine.add(SimRequest(B, LengthPrompt(24, (*names(0, 2), *names(50, 4))), 1), 10.0)
    counts = emitted_of(engine.advance(20.0))[0].counts
    assert counts is not None
    assert counts.local == 20


def test_a_request_that_can_never_fit_ends_with_an_error() -> None:
    """At once, on an idle engine too."""
    engine = make()
    engine.add(ask(A, tokens=201), 3.0)
    assert [(one.at_s, [emitted.ended for emitted in one.emitted]) for one in engine.advance(3.0)] == [(3.0, ["error"])]


# In leaps and without

Call = tuple[float, str, int, int, int, float]
"""When, what, and what of."""


@st.composite
def calls(draw: st.DrawFn) -> list[Call]:
    """Arrivals in clusters and far apart; some pull, some keep, some are aborted."""
    made: list[Call] = []
    now = 0.0
    for _ in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([0.0, 0.0137, 0.31, 2.0])) * draw(st.floats(0.5, 1.5))
        kind = draw(st.sampled_from(["plain", "plain", "plain", "keep", "pull", "named", "abort"]))
        made.append(
            (
                now,
                kind,
                draw(st.integers(1, 60)),
                draw(st.integers(1, 90)),
                draw(st.sampled_from([0, 0, 100, 200])),
                draw(st.floats(0.001, 0.5)),
            )
        )
    return made


def live(engine: VirtualEngine, plan: Sequence[Call]) -> dict[str, list[Any]]:
    """What every request heard, and when."""
    heap: list[tuple[float, int, str, Any]] = []
    for number, (at_s, kind, tokens, output, first, extra) in enumerate(plan):
        leg = LegId(str(number))
        if kind == "abort":
            heapq.heappush(heap, (at_s, number, "abort", LegId(str(number // 2))))
            continue
        output_names = names(1000 + 100 * number, 40) if kind == "named" else ()
        prompt = LengthPrompt(tokens, names(first, tokens // BLOCK), output_names)
        remote = RemotePrompt("far", leg, "", 0, max(1, int(tokens * min(1.0, extra * 3)))) if kind == "pull" else None
        heapq.heappush(
            heap, (at_s, number, "add", SimRequest(leg, prompt, output, keep=kind == "keep", remote=remote, priority=number % 3))
        )
    heard: dict[str, list[Any]] = {}
    number = len(plan)

    def note(told: Sequence[Told]) -> None:
        nonlocal number
        for one in told:
            for emitted in one.emitted:
                heard.setdefault(emitted.leg, []).append((one.at_s, emitted.ended, emitted.counts, emitted.timeline))
            for pull in one.pulls:
                number += 1
                heapq.heappush(heap, (one.at_s + pull.transfer_bytes * 1e-4 + 0.00317, number, "pulled", pull.leg))
            heard.setdefault("expired", []).extend((one.at_s, leg) for leg in one.expired)

    for _ in range(100_000):
        called_s = heap[0][0] if heap else float("inf")
        if called_s == engine.next_event_s == float("inf"):
            return heard
        if engine.next_event_s < called_s:
            note(engine.advance(engine.next_event_s))
            continue
        at_s, _, what, about = heapq.heappop(heap)
        if what == "add":
            engine.add(about, at_s)
        elif what == "abort":
            engine.abort(about, at_s)
        else:
            engine.pulled(about, at_s)
    raise AssertionError("does not end")


def flat(heard: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Times as approximate ones, whatever they are part of."""

    def near(entry: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(entry) == 2:
            return (pytest.approx(entry[0], rel=1e-6, abs=1e-9), entry[1])
        at_s, ended, counts, line = entry
        times = None
        if line is not None:
            of_line = (line.added_s, line.scheduled_s, line.first_token_s, line.last_token_s, line.longest_gap_s)
            times = (pytest.approx(of_line, rel=1e-6, abs=1e-9), line.tokens, line.preemptions)
        return (pytest.approx(at_s, rel=1e-6, abs=1e-9), ended, counts, times)

    return {leg: [near(entry) for entry in entries] for leg, entries in heard.items()}


def times_of(heard: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The same shape as ``flat``, with plain numbers."""

    def plain(entry: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(entry) == 2:
            return entry
        at_s, ended, counts, line = entry
        if line is None:
            return (at_s, ended, counts, None)
        of_line = (line.added_s, line.scheduled_s, line.first_token_s, line.last_token_s, line.longest_gap_s)
        return (at_s, ended, counts, (of_line, line.tokens, line.preemptions))

    return {leg: [plain(entry) for entry in entries] for leg, entries in heard.items()}


@settings(max_examples=150, deadline=None)
@given(
    plan=calls(),
    num_blocks=st.sampled_from([50, 60, 90]),
    max_num_seqs=st.sampled_from([1, 4, 16]),
    budget=st.sampled_from([3, 20, 200]),
    policy=st.sampled_from(["fcfs", "priority"]),
    watermark=st.sampled_from([0.0, 0.1]),
)
def test_leaps_change_nothing(plan: list[Call], num_blocks: int, max_num_seqs: int, budget: int, policy: str, watermark: float) -> None:
    """First tokens, ends, gaps, preemptions, prefix hits and expiries are those of a run step by step."""
    changes: dict[str, Any] = {"num_blocks": num_blocks, "max_num_seqs": max_num_seqs, "max_num_batched_tokens": budget}
    changes |= {"policy": policy, "watermark": watermark, "lease_s": 0.4}
    in_leaps, step_by_step = make(**changes), make(leaps=False, **changes)
    assert times_of(live(in_leaps, plan)) == flat(live(step_by_step, plan))
    assert in_leaps.stats(1e9).free_blocks == step_by_step.stats(1e9).free_blocks == num_blocks
