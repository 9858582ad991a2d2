"""The prefix index: who has how much of a prompt, within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.block_keys import BlockKey
from core.ids import WorkerId
from router.prefix.index import PrefixIndex

A, B, C = WorkerId("a"), WorkerId("b"), WorkerId("c")


def keys(*numbers: int) -> list[BlockKey]:
    return [BlockKey(number) for number in numbers]


def index_of(**held: list[int]) -> PrefixIndex:
    index = PrefixIndex()
    for worker, numbers in held.items():
        index.stored(WorkerId(worker), keys(*numbers))
    return index


HITS: dict[str, tuple[PrefixIndex, list[int], dict[str, int]]] = {
    "nobody": (index_of(), [1, 2, 3], {}),
    "no prompt": (index_of(a=[1]), [], {}),
    "all of it": (index_of(a=[1, 2, 3]), [1, 2, 3], {"a": 3}),
    "its beginning": (index_of(a=[1, 2]), [1, 2, 3], {"a": 2}),
    "more than it": (index_of(a=[1, 2, 3, 4]), [1, 2], {"a": 2}),
    "not its beginning": (index_of(a=[2, 3]), [1, 2, 3], {}),
    "with a hole": (index_of(a=[1, 3, 4]), [1, 2, 3, 4], {"a": 1}),
    "a hole of one, another goes on": (index_of(a=[1, 2, 4], b=[1, 2, 3]), [1, 2, 3, 4], {"a": 2, "b": 3}),
    "one behind another's end": (index_of(a=[1], b=[2, 3]), [1, 2, 3], {"a": 1}),
    "each as much as it has": (index_of(a=[1, 2, 3], b=[1], c=[1, 2, 3]), [1, 2, 3, 4], {"a": 3, "b": 1, "c": 3}),
}


@pytest.mark.parametrize(("index", "prompt", "found"), HITS.values(), ids=HITS.keys())
def test_hits(index: PrefixIndex, prompt: list[int], found: dict[str, int]) -> None:
    """The unbroken beginning that each worker has; workers without any are left out."""
    assert index.hits(keys(*prompt)) == found


Op = tuple[str, int, list[int]]
OPS = st.lists(st.tuples(st.sampled_from(["stored", "removed", "forget"]), st.integers(0, 4), st.lists(st.integers(1, 12))), max_size=40)


@given(OPS, st.lists(st.integers(1, 12), max_size=12, unique=True))
def test_it_is_a_set_for_each_worker(ops: list[Op], prompt: list[int]) -> None:
    """Whatever is told in whatever order, told twice, or was never there."""
    index, model = PrefixIndex(), {WorkerId(f"w{number}"): set[int]() for number in range(5)}
    for op, number, told in ops:
        worker = WorkerId(f"w{number}")
        if op == "stored":
            index.stored(worker, keys(*told))
            model[worker] |= set(told)
        elif op == "removed":
            index.removed(worker, keys(*told))
            model[worker] -= set(told)
        else:
            index.forget(worker)
            model[worker].clear()
    assert {worker: index.held_by(worker) for worker in model} == model
    assert len(index) == sum(map(len, model.values()))
    expected = {}
    for worker, held in model.items():
        run = next((place for place, key in enumerate(prompt) if key not in held), len(prompt))
        if run:
            expected[worker] = run
    assert index.hits(keys(*prompt)) == expected


def test_more_workers_than_a_machine_word_has_bits() -> None:
    """And those that come take the places of those that went."""
    index = PrefixIndex()
    for number in range(200):
        index.stored(WorkerId(f"w{number}"), keys(*range(number + 1)))
    for number in range(0, 200, 2):
        index.forget(WorkerId(f"w{number}"))
    for number in range(200, 300):
        index.stored(WorkerId(f"w{number}"), keys(0))
    found = index.hits(keys(*range(300)))
    assert found == {f"w{n}": n + 1 for n in range(1, 200, 2)} | {f"w{n}": 1 for n in range(200, 300)}


def test_the_oldest_blocks_go_first() -> None:
    """Beyond the budget; a block of two workers counts twice and goes for both. One that is told of again is new again."""
    index = PrefixIndex(budget_blocks=4)
    index.stored(A, keys(1))
    index.stored(A, keys(2))
    index.stored(B, keys(1))
    index.stored(A, keys(3))
    assert len(index) == 4
    index.stored(C, keys(4))
    assert [index.held_by(worker) for worker in (A, B, C)] == [{1, 3}, {1}, {4}]
    index.stored(C, keys(5))
    assert [index.held_by(worker) for worker in (A, B, C)] == [{3}, set(), {4, 5}]
    assert len(index) == 3


def test_ends_go_before_beginnings() -> None:
    """Of a prompt of 900 blocks, ten over the budget cost its last few; by what is left of it, it is recognised."""
    index = PrefixIndex(budget_blocks=1000)
    index.stored(A, keys(*range(900)))
    index.stored(B, keys(*range(10_000, 10_110)))
    assert len(index) <= 1000
    assert index.hits(keys(*range(900))) == {A: len(index.held_by(A))}
    assert len(index.held_by(A)) > 870


def test_what_is_hit_stays() -> None:
    """A system prompt is the oldest block there is; each hit spares it once."""
    index = PrefixIndex(budget_blocks=4)
    index.stored(A, keys(1, 2, 3, 4))
    index.hits(keys(1, 2))
    index.stored(A, keys(5))
    index.stored(A, keys(6))
    assert index.held_by(A) == {1, 2, 5, 6}
    index.stored(A, keys(7, 8))
    assert index.held_by(A) == {1, 2, 7, 8}


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(1, 40), max_size=10), st.booleans()), max_size=40))
def test_the_budget_holds(told: list[tuple[int, list[int], bool]]) -> None:
    """Whatever comes; and what is left is true."""
    index, model = PrefixIndex(budget_blocks=12), {WorkerId(f"w{number}"): set[int]() for number in range(4)}
    for number, numbers, removed in told:
        worker = WorkerId(f"w{number}")
        if removed:
            index.removed(worker, keys(*numbers))
            model[worker] -= set(numbers)
        else:
            index.stored(worker, keys(*numbers))
            model[worker] |= set(numbers)
        index.hits(keys(*numbers))
        assert len(index) == sum(len(index.held_by(worker)) for worker in model) <= 12
        assert all(index.held_by(worker) <= held for worker, held in model.items())
