"""What a router counts of its requests."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from core.config import BatonConfig
from core.ids import RequestId, WorkerId
from core.metrics.catalogue import CHAPTERS
from core.metrics.tally import MOST_PAIRS, OTHER, Counts, Family
from core.metrics.words import Decided, Handoff, Kept, Outcome, Part, PlanKind, TokenKind, TokenSource, Why
from core.worker import Role
from router.early_refusal import refusal_text
from router.events import FailKind
from router.instructions import Fail
from router.plan import Ask, Decision, Plan, Scored
from router.reason import Reason, why_of
from router.service import WantedService
from router.tally import RouterTally
from router.timeline import Timeline

P, D = WorkerId("p"), WorkerId("d")
ASK = Ask(RequestId("r"), 20, 10, True)
PROMISED = WantedService(ttft_s=1.0)


def timeline(plan: Plan | None = None, **values: Any) -> Timeline:
    made = Timeline(RequestId("r"), "c", 1000.0, 50.0, 20, 8)
    if plan is not None:
        made.decided(ASK, Decision(Scored(plan, 1.0, ""), (), {}, ""))
    made.finished_s, made.outcome = 2.0, "finished"
    for name, value in values.items():
        setattr(made, name, value)
    return made


def value(family: Counts, *labels: str) -> float:
    return family.cells[labels].value


SPLIT, WHOLE = Plan(P, D), Plan(D, D)
LOST, TOO_MUCH = Fail(FailKind.LOST, "died"), Fail(FailKind.OVERLOADED, Reason(Why.TTFT, "too late"))
ENDS: dict[str, tuple[Timeline, Fail | None, PlanKind, Outcome]] = {
    "two workers": (timeline(SPLIT), None, PlanKind.DISAGGREGATED, Outcome.FINISHED),
    "one worker": (timeline(WHOLE), None, PlanKind.LOCAL, Outcome.FINISHED),
    "stop string": (timeline(SPLIT, outcome="stopped"), None, PlanKind.DISAGGREGATED, Outcome.STOPPED),
    "client left": (timeline(SPLIT, outcome="cancelled"), None, PlanKind.DISAGGREGATED, Outcome.CANCELLED),
    "client left while it waited": (timeline(outcome="cancelled"), None, PlanKind.NONE, Outcome.CANCELLED),
    "refused": (timeline(outcome="failed"), TOO_MUCH, PlanKind.NONE, Outcome.REFUSED),
    "late in the queue": (timeline(outcome="failed"), Fail(FailKind.TIMED_OUT, "late"), PlanKind.NONE, Outcome.TIMED_OUT),
    "no worker": (timeline(outcome="failed"), Fail(FailKind.UNAVAILABLE, "none"), PlanKind.NONE, Outcome.REFUSED),
    "lost": (timeline(SPLIT, outcome="failed"), LOST, PlanKind.DISAGGREGATED, Outcome.LOST),
    "engine": (timeline(WHOLE, outcome="failed"), Fail(FailKind.ENGINE, "no"), PlanKind.LOCAL, Outcome.ENGINE),
    "late": (timeline(WHOLE, outcome="failed"), Fail(FailKind.TIMED_OUT, "late"), PlanKind.LOCAL, Outcome.TIMED_OUT),
}


@pytest.mark.parametrize(("record", "fail", "plan", "outcome"), ENDS.values(), ids=ENDS.keys())
def test_every_request_is_counted_once_as_it_ended(record: Timeline, fail: Fail | None, plan: PlanKind, outcome: Outcome) -> None:
    """By class, by who served it, and by how it ended; a refusal also by its reason. Each count was zero before: its rate
    has a first step."""
    tally = RouterTally()
    assert value(tally.requests, "default", plan, outcome) == 0
    tally.ended(record, WantedService(), fail)
    assert {labels: cell.value for labels, cell in tally.requests.cells.items() if cell.value} == {("default", plan, outcome): 1}
    refused = {labels: cell.value for labels, cell in tally.refusals.cells.items() if cell.value}
    why = Why.NO_WORKER if fail is not None and fail.kind is FailKind.UNAVAILABLE else Why.TTFT
    assert refused == ({("default", why): 1} if outcome is Outcome.REFUSED else {})


def test_resumed_requests() -> None:
    """Those that another worker went on with, or began anew, by how they ended; and all the engines that ended under them."""
    tally = RouterTally()
    for record in (timeline(SPLIT), timeline(SPLIT, losses=2, resumes=2), timeline(SPLIT, losses=1), timeline(SPLIT, resumes=1)):
        tally.ended(record, WantedService(), None)
    assert value(tally.resumed, "default", Outcome.FINISHED) == 3
    assert value(tally.losses) == 3


def test_goodput_counts_the_door_too() -> None:
    """Whoever was promised something and was refused, wherever that was, did not get it."""
    tally = RouterTally()
    tally.refused(Why.QUEUE_FULL, PROMISED)
    tally.refused(Why.QUEUE_FULL, WantedService())
    tally.refused(Why.NO_WORKER, PROMISED, requests=3)
    tally.ended(timeline(SPLIT, first_token_s=0.5), PROMISED, None)
    tally.ended(timeline(outcome="failed"), PROMISED, TOO_MUCH)
    assert {labels[1]: cell.value for labels, cell in tally.objectives.cells.items() if cell.value} == {Kept.REFUSED: 5, Kept.MET: 1}
    assert (value(tally.refusals, "default", Why.QUEUE_FULL), value(tally.refusals, "default", Why.NO_WORKER)) == (2, 3)


def test_where_time_went_is_told_of_answers_that_came_to_their_end() -> None:
    """Phases add up to the whole; what was cancelled half-way would only blur them."""
    tally = RouterTally()
    times: dict[str, Any] = {"sent_s": 0.5, "waited_s": 0.4, "queue_s": 0.1, "handed_off_s": 1.0, "decoding_s": 1.3, "transfer_s": 0.2}
    times |= {"first_token_s": 1.0, "output_tokens": 11, "transfer_bytes": 100}
    tally.ended(timeline(SPLIT, **times), WantedService(), None)
    tally.ended(timeline(SPLIT, **times, outcome="cancelled"), WantedService(), None)
    spent = {labels[0]: spread.sum for labels, spread in tally.phases.cells.items() if sum(spread.counts)}
    expected = {Part.ROUTE: 0.1, Part.QUEUE: 0.4, Part.ENGINE_QUEUE: 0.1, Part.PREFILL: 0.4}
    expected |= {Part.TRANSFER: 0.2, Part.DECODE_WAIT: 0.1, Part.DECODE: 0.7}
    assert spent == pytest.approx(expected)
    assert tally.total.cells["default",].sum == pytest.approx(sum(spent.values()))
    assert tally.tpot.cells["default",].sum == pytest.approx(0.1)


def test_hand_overs() -> None:
    """What was moved, per pair of workers; and what was silently computed again, without the one token that always is."""
    tally = RouterTally()
    times: dict[str, Any] = {"decoding_s": 1.0, "transfer_bytes": 4000, "transfer_s": 0.5, "transferred_tokens": 12, "recomputed_tokens": 1}
    tally.handed_over(timeline(SPLIT, **times, decode_cached_tokens=7))
    tally.handed_over(timeline(SPLIT, decoding_s=1.0, recomputed_tokens=20))
    assert [value(tally.handoffs, result) for result in (Handoff.TRANSFERRED, Handoff.RECOMPUTED)] == [1, 1]
    tokens = [value(tally.handoff_tokens, source) for source in (TokenSource.TRANSFERRED, TokenSource.CACHED, TokenSource.RECOMPUTED)]
    assert tokens == [12, 7, 19]
    assert [family.cells[P, D].value for family in tally.pairs] == [1, 4000, 0.5, 8000]


def test_what_is_counted_of_a_worker_begins_at_zero() -> None:
    """As soon as it is a member, in the role it has and with all it may have hand-overs with; no bandwidth, for there was no pull. What
    has been counted stays when it is told of again, or gets another role."""
    tally = RouterTally()
    for worker, role in ((P, Role.PREFILL), (D, Role.DECODE), (WorkerId("e"), Role.DECODE), (P, Role.PREFILL)):
        tally.joined(worker, role)
    hits, asked = tally.prefixes
    for family in (hits, asked, tally.leg_refusals):
        assert {labels: cell.value for labels, cell in family.cells.items()} == {
            ("p", "prefill"): 0,
            ("d", "decode"): 0,
            ("e", "decode"): 0,
        }
    *counters, bandwidth = tally.pairs
    assert [{labels: cell.value for labels, cell in family.cells.items()} for family in counters] == [{("p", "d"): 0, ("p", "e"): 0}] * 3
    assert not bandwidth.cells
    tally.prompt_begun(D, Role.DECODE, 20, 16)
    tally.joined(D, Role.PREFILL)
    assert (value(asked, "d", Role.DECODE), value(asked, "d", Role.PREFILL), value(counters[0], "d", "e")) == (20, 0, 0)
    tally.left(D)
    assert [set(family.cells) for family in counters] == [{("p", "e")}] * 3


def test_zeros_take_no_place_from_what_happens() -> None:
    """A thousand workers: a part of the pairs is shown before anything is, and every pull finds its pair until the bound is reached."""
    tally = RouterTally()
    for number in range(500):
        tally.joined(WorkerId(f"p{number}"), Role.PREFILL)
        tally.joined(WorkerId(f"d{number}"), Role.DECODE)
    transfers = tally.pairs[0]
    assert len(transfers.cells) == MOST_PAIRS // 4
    times: dict[str, Any] = {"decoding_s": 1.0, "transfer_bytes": 1, "transfer_s": 1.0, "transferred_tokens": 1}
    for number in range(MOST_PAIRS // 2):
        tally.handed_over(timeline(Plan(WorkerId(f"p{number}"), WorkerId("d499")), **times))
    assert (OTHER, OTHER) not in transfers.cells
    assert sum(cell.value for cell in transfers.cells.values()) == MOST_PAIRS // 2


def test_a_worker_that_left_is_forgotten() -> None:
    """On either side of a pair."""
    tally = RouterTally()
    tally.handed_over(timeline(SPLIT, decoding_s=1.0, transfer_bytes=1, transfer_s=1.0, transferred_tokens=1))
    tally.handed_over(timeline(Plan(WorkerId("q"), D), decoding_s=1.0, transfer_bytes=1, transfer_s=1.0, transferred_tokens=1))
    tally.prompt_begun(P, Role.PREFILL, 20, 16)
    tally.leg_refused(P, Role.PREFILL)
    tally.leg_refused(P, None)
    tally.left(P)
    assert [list(family.cells) for family in tally.pairs] == [[("q", "d")]] * 4
    tally.left(D)
    assert not any(family.cells for family in (*tally.pairs, *tally.prefixes, tally.leg_refusals))


def test_classes_and_tenants_are_those_of_the_configuration() -> None:
    """All others are one, whatever clients call themselves; classes and tenants that are configured are there from the beginning."""
    config = {"model": "demo", "objectives": {"classes": {"chat": {"ttft_s": 1.0}}, "tenants": {"acme": {}}}}
    tally = RouterTally.of_config(BatonConfig.model_validate(config))
    before = _sizes(tally)
    assert {labels[0] for labels in tally.requests.cells} == {"default", "chat"}
    for number in range(2000):
        service = WantedService(tenant=f"tenant-{number}", class_name=f"class-{number}", ttft_s=1.0)
        tally.arrived(service, 10)
        tally.refused(Why.QUEUE_FULL, service)
        tally.ended(timeline(SPLIT, request=RequestId(f"r{number}"), client_request=f"c{number}", output_tokens=5), service, None)
    tally.ended(timeline(SPLIT, output_tokens=5), WantedService(tenant="acme", class_name="chat"), None)
    assert value(tally.tenants, OTHER, TokenKind.OUTPUT) == 2000 * 5
    assert value(tally.tenants, "acme", TokenKind.OUTPUT) == 5
    assert value(tally.arrivals, OTHER) == 2000
    grown = {name: size - before[name] for name, size in _sizes(tally).items()}
    assert max(grown.values()) <= 2, grown  # "other", as finished and as refused


def _sizes(tally: RouterTally) -> dict[str, int]:
    return {reading.entry.name: len(reading.cells) for reading in tally.readings()}


def test_no_value_of_a_label_is_a_requests_own() -> None:
    """Neither its id nor its client's is anywhere in what is told."""
    tally = RouterTally()
    record = timeline(SPLIT, request=RequestId("request-4711"), client_request="client-4711", decoding_s=1.0, transfer_bytes=1)
    tally.handed_over(record)
    tally.decided(Decided.PLANNED, 0.001)
    tally.ended(record, WantedService(tenant="client-4711"), LOST)
    assert not [labels for reading in tally.readings() for labels in reading.cells if "4711" in "".join(labels)]


def test_all_that_is_counted_is_told() -> None:
    """Every family of a tally is among its readings, and every one of the catalogue's is either counted or looked at (readings.py)."""
    tally = RouterTally()
    held = [held for held in vars(tally).values() if isinstance(held, Family)] + [*tally.pairs, *tally.prefixes]
    told = {reading.entry.name for reading in tally.readings()}
    assert {family.entry.name for family in held} == told
    counted = {entry.name for chapter in ("requests", "handoffs") for entry in CHAPTERS[chapter]}
    assert counted < told


def test_reasons_are_words_and_a_word() -> None:
    """To their readers they are text; the one word that is counted stays with them on their way, and in copies."""
    reason = Reason(Why.TPOT, "a token would take 60 ms")
    assert reason == "a token would take 60 ms"
    assert (why_of(refusal_text(reason, 2.0)), str(refusal_text(reason, 2.0))) == (Why.TPOT, "a token would take 60 ms; try again in 2 s")
    assert copy.deepcopy(reason).why is Why.TPOT
    assert why_of("just text") is Why.OTHER
