"""One budget over several models: who gets what, and that together they never hold more."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.shared_budget import Claim, Entry, Ledger, Terms, shares

BUDGET = 8.0


@pytest.mark.parametrize(
    ("wanted", "weights", "expected"),
    [
        ({"a": 3, "b": 4}, {}, {"a": 3, "b": 4}),
        ({"a": 9, "b": 2}, {}, {"a": 6, "b": 2}),
        ({"a": 9, "b": 9}, {}, {"a": 4, "b": 4}),
        ({"a": 9, "b": 9}, {"a": 3.0}, {"a": 6, "b": 2}),
        ({"a": 0, "b": 99}, {}, {"a": 1, "b": 7}),
        ({"a": 9, "b": 9}, {"a": 100.0}, {"a": 7, "b": 1}),
    ],
    ids=["enough for both", "one is modest", "halves", "by weight", "minimum of who wants nothing", "minimum of the light"],
)
def test_shares(wanted: dict[str, float], weights: dict[str, float], expected: dict[str, float]):
    """Everybody's minimum first; then whoever wants more, by weight."""
    terms = {name: Terms(1.0, 1.0, weights.get(name, 1.0)) for name in wanted}
    assert shares(BUDGET, terms, wanted) == expected


def test_no_part_of_a_worker_is_set_aside():
    """One model's workers take four GPUs: what is left of its half goes to the other."""
    assert shares(10.0, {"large": Terms(0.0, 4.0), "small": Terms(0.0, 1.0)}, {"large": 12, "small": 12}) == {"large": 4, "small": 6}


def ledger(**terms: Terms) -> Ledger:
    return Ledger.opened(BUDGET, terms, {})


def test_what_was_granted_is_set_aside_until_the_next_claim():
    """Also while nothing of it is held: its controller is about to start workers."""
    both = ledger(a=Terms(1.0, 1.0), b=Terms(1.0, 1.0))
    both, first = both.claimed("a", Claim(1.0, 1.0, 7.0))
    both, second = both.claimed("b", Claim(1.0, 1.0, 7.0))
    assert (first.gpus, second.gpus) == (7.0, 1.0)
    both, first = both.claimed("a", Claim(2.0, 5.0, 7.0))
    assert first.gpus == 4.0  # an equal part, now that the other wants as much; five are held until one has gone
    both, second = both.claimed("b", Claim(2.0, 1.0, 7.0))
    assert second.gpus == 3.0
    assert second.text == "3 of the 8 that models share (a 5)"
    both, _ = both.claimed("a", Claim(3.0, 4.0, 7.0))
    assert both.claimed("b", Claim(3.0, 3.0, 7.0))[1].gpus == 4.0


def test_a_claim_that_was_overtaken_changes_nothing():
    """It may have been given up long ago: its sender has grown since by a later one."""
    both = ledger(a=Terms(0.0, 1.0), b=Terms(0.0, 1.0))
    both, _ = both.claimed("a", Claim(2.0, 0.0, 5.0))
    after, grant = both.claimed("a", Claim(1.0, 2.0, 2.0))
    assert (after, grant.gpus) == (both, 2.0)


def test_a_model_that_is_not_scaled_keeps_what_it_has():
    """It never claims; its workers are counted from the start."""
    both = ledger(fixed=Terms(3.0, 1.0, claims=False), b=Terms(1.0, 1.0))
    assert both.claimed("b", Claim(1.0, 0.0, 99.0))[1].gpus == 5.0


def test_a_new_model_gets_its_minimum_from_who_has_more():
    """The budget was all the other one's. It is told to let workers go, and the new one begins as they do."""
    both = Ledger.opened(BUDGET, {"a": Terms(1.0, 1.0), "new": Terms(2.0, 1.0)}, {"a": Entry(1.0, 8.0, 8.0)})
    both, grant = both.claimed("new", Claim(1.0, 0.0, 2.0))
    assert grant.gpus == 0.0
    both, grant = both.claimed("a", Claim(2.0, 8.0, 8.0))
    assert grant.gpus == 6.0
    both, _ = both.claimed("a", Claim(3.0, 6.0, 8.0))
    assert both.claimed("new", Claim(2.0, 0.0, 2.0))[1].gpus == 2.0


MODELS = ("a", "b", "c")
moves = st.tuples(
    st.sampled_from(MODELS),
    st.sampled_from(["plan", "answer is lost", "ledger is opened again", "overtaken"]),
    st.floats(0, 12),
    st.floats(0, 1),
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.floats(0.1, 10)), min_size=3, max_size=3),
    st.lists(moves, max_size=60),
)
def test_together_they_never_hold_more_than_the_budget(of: list[tuple[int, float, float]], history: list[tuple[str, str, float, float]]):
    """Whatever they want, in whatever order they claim, each growing to its grant as far as it likes and letting go as slowly as it likes;
    when answers are lost, claims overtake one another, and the ledger is read again from where it was kept. And nobody who asks is left
    below its minimum for ever: once all claim and keep to their grants, each may hold it."""
    terms = {name: Terms(min(least, 2) * 1.0, step, weight) for name, (least, step, weight) in zip(MODELS, of, strict=True)}
    book, held, clock_s = Ledger.opened(BUDGET, terms, {}), dict.fromkeys(MODELS, 0.0), 0.0
    old = Claim(0.5, 0.0, 12.0)
    for model, what, wanted, part in history:
        clock_s += 1.0
        claim = Claim(clock_s, held[model], max(held[model], wanted))
        if what == "ledger is opened again":
            kept = msgspec.json.decode(msgspec.json.encode(book.entries), type=dict[str, Entry])
            book = Ledger.opened(BUDGET, terms, kept)
        book, grant = book.claimed(model, old if what == "overtaken" else claim)
        if what == "plan":
            goal = grant.gpus if grant.gpus >= held[model] else held[model] - part * (held[model] - grant.gpus)
            held[model] = goal if goal < held[model] else held[model] + part * (goal - held[model])
        assert sum(held.values()) <= BUDGET + 1e-6
        assert sum(entry.reserved_gpus for entry in book.entries.values()) <= BUDGET + 1e-6
    for _ in range(3):
        for model in MODELS:
            clock_s += 1.0
            book, grant = book.claimed(model, Claim(clock_s, held[model], max(held[model], terms[model].least_gpus)))
            held[model] = min(held[model], grant.gpus)
    assert all(book.claimed(m, Claim(clock_s + 1, held[m], 12.0))[1].gpus >= terms[m].least_gpus - 1e-6 for m in MODELS)
