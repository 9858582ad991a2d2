"""Promised prompts: what a worker will have soon counts as had, for a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.block_keys import BlockKey
from core.ids import WorkerId
from router.prefix.promises import Promises

A, B = WorkerId("a"), WorkerId("b")


def keys(*numbers: int) -> list[BlockKey]:
    return [BlockKey(number) for number in numbers]


def has_nothing(worker: WorkerId, key: BlockKey) -> bool:
    return False


def hits(promises: Promises, prompt: list[BlockKey], now: float = 0.0) -> dict[WorkerId, int]:
    return promises.hits(prompt, now, has_nothing)


def test_a_burst_goes_together() -> None:
    """The common beginning counts, with each worker that was sent a part of the burst; the longest where it was sent several."""
    promises = Promises()
    promises.made(A, keys(1, 2, 31), 0.0)
    promises.made(A, keys(1, 22), 0.0)
    promises.made(B, keys(1, 2, 33, 4, 5), 0.0)
    assert hits(promises, keys(1, 2, 33)) == {A: 2, B: 3}
    assert hits(promises, keys(1, 22, 7)) == {A: 2, B: 1}
    assert hits(promises, keys(9)) == hits(promises, []) == {}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 2), min_size=1, max_size=8)), max_size=20), st.data())
def test_the_longest_common_beginning(made: list[tuple[str, list[int]]], data: st.DataObject) -> None:
    """Of all promises of a worker. Keys name all before them, so a search by halves finds it."""

    def chained(tokens: list[int]) -> list[BlockKey]:
        return [BlockKey(hash(tuple(tokens[: end + 1]))) for end in range(len(tokens))]

    promises = Promises()
    for worker, tokens in made:
        promises.made(WorkerId(worker), chained(tokens), 0.0)
    prompt = data.draw(st.lists(st.integers(0, 2), max_size=8))
    expected: dict[str, int] = {}
    for worker, tokens in made:
        common = next((n for n, (x, y) in enumerate(zip(prompt, tokens, strict=False)) if x != y), min(len(prompt), len(tokens)))
        if common:
            expected[worker] = max(common, expected.get(worker, 0))
    assert hits(promises, chained(prompt)) == expected


def test_a_promise_ends_with_its_time() -> None:
    """The worker may be late, or never have done it."""
    promises = Promises(lasts_s=10.0)
    promises.made(A, keys(1, 2), 0.0)
    assert hits(promises, keys(1, 2), 9.9) == {A: 2}
    assert hits(promises, keys(1, 2), 10.0) == {}
    assert len(promises) == 0


def test_a_promise_that_is_kept_is_none_any_more() -> None:
    """From then on the worker's own word counts, also when it evicts the blocks."""
    promises = Promises()
    promises.made(A, keys(1, 2), 0.0)
    promises.made(A, keys(1, 3), 0.0)
    assert promises.hits(keys(1, 2), 1.0, lambda worker, key: (worker, key) == (A, 2)) == {A: 1}
    assert hits(promises, keys(1, 2)) == {A: 1}


def test_a_worker_that_refuses_or_goes_keeps_none() -> None:
    """Refused is one prompt, gone is all."""
    promises = Promises()
    for worker in (A, B):
        promises.made(worker, keys(1, 2), 0.0)
        promises.made(worker, keys(1, 3, 4), 0.0)
    promises.broken(A, keys(1, 3, 4))
    promises.broken(A, keys(8))
    promises.broken(A, [])
    assert hits(promises, keys(1, 3, 4)) == {A: 1, B: 3}
    promises.forget(B)
    assert hits(promises, keys(1, 3, 4)) == {A: 1}


def test_only_so_many_are_kept() -> None:
    """The newest of those with one beginning; of beginnings nobody asked for, none whose time is over."""
    promises = Promises(lasts_s=10.0)
    for number in range(1000):
        promises.made(A, keys(1, 1000 + number), 0.0)
    assert len(promises) == 64
    assert hits(promises, keys(1, 1999)) == {A: 2}
    for number in range(10_000):
        promises.made(A, keys(10_000 + number), 5.0)
    assert len(promises) == 4096
    promises.made(A, keys(2), 15.0)
    assert len(promises) == 1
