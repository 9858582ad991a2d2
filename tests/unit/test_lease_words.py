"""Lease words: whatever happens when, a reader that is told its blocks are right has the right blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.lease_words import LEASE_KEY, LeaseBook, LeaseWords
from kv_transfer.pull_check import PullCheck
from tests.support.fake_nixl import FakeNixl, read

BLOCKS = 4


class Keeper:
    """One rank that keeps blocks, in the order the connector does it. A block holds the number of whose it is."""

    def __init__(self, slots: int = 2) -> None:
        self.book = LeaseBook(slots)
        self.words = LeaseWords(slots)
        self.book.locate({0: self.words.address})
        self.blocks = np.zeros(BLOCKS, dtype=np.int64)
        self._owners = itertools.count(1)

    def keep(self, leg: str) -> tuple[int, list[int]]:
        """A leg runs to its end; the lease its handle carries."""
        self.compute(leg)
        self.hear()
        number, addresses = self.book.transfer_params(leg)[LEASE_KEY]
        return number, addresses

    def compute(self, leg: str) -> None:
        """Blocks are written over before the connector hears of the step: vLLM asks it to load when the step has been computed."""
        self.book.open(leg)
        self.blocks[:] = next(self._owners)

    def hear(self) -> None:
        """What the scheduler has said reaches the rank."""
        self.words.obey(self.book.take_orders())

    def end(self, leg: str) -> None:
        """However the lease ends: erased by the rank, only then told to the scheduler."""
        self.words.erase([leg])
        self.book.close(leg)


def make_check(nixl: FakeNixl, timeout_s: float = 1e9) -> PullCheck:
    """On a clock that goes on by a second whenever it is read, so that nothing ever waits."""
    seconds = itertools.count()
    return PullCheck(nixl, timeout_s, lambda: float(next(seconds)))


class Reader:
    """One pull of all blocks of one leg, step by step as the connector does it."""

    def __init__(self, nixl: FakeNixl, keeper: Keeper, lease: tuple[int, list[int]]) -> None:
        self.check = make_check(nixl)
        self.blocks = np.zeros(BLOCKS, dtype=np.int64)
        self.check.expect({"reader": lease})
        self.check.reading("reader", "keeper", 0)
        self.data = read(nixl, self.blocks.ctypes.data, keeper.blocks.ctypes.data, [8] * BLOCKS)
        self.verdict: bool | None = None

    def step(self) -> None:
        if self.verdict is None and self.data.state == "DONE":
            if not self.check.checking("reader"):
                assert self.check.check("reader")
            self.verdict = self.check.verdicts().get("reader")


@given(st.lists(st.sampled_from(["copy", "copy", "step", "end", "reuse", "hear"]), max_size=30))
def test_no_order_of_events_makes_wrong_blocks_right(events: list[str]) -> None:
    """Copies, steps, the end of the lease and the reuse of slot and blocks in any order: right blocks, or the pull failed."""
    nixl, keeper = FakeNixl(), Keeper(slots=1)
    reader = Reader(nixl, keeper, keeper.keep("first"))
    leg: str | None = "first"
    ended_before_verdict = False
    for event in [*events, *["copy", "step"] * (BLOCKS + 2)]:
        if event == "copy":
            for handle in nixl.reads:
                nixl.copy_one(handle)
        elif event == "step":
            reader.step()
        elif event == "end" and leg is not None:
            keeper.end(leg)
            leg = None
            ended_before_verdict |= reader.verdict is None
        elif event == "reuse" and leg is None:
            leg = f"other-{len(nixl.reads)}"
            keeper.compute(leg)  # the same slot and the same blocks
        elif event == "hear":
            keeper.hear()
    assert reader.verdict is not None
    if reader.verdict:
        assert reader.blocks.tolist() == [1] * BLOCKS
    assert reader.verdict or ended_before_verdict, "a lease that lasted is never doubted"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=60))
def test_a_slot_has_one_leg_and_a_number_one_life(steps: list[tuple[str, bool]]) -> None:
    """In any order of opens and closes; a rank's words are exactly the open legs' numbers."""
    keeper = Keeper(slots=3)
    seen: set[int] = set()
    model: dict[str, int] = {}
    for leg, opens in steps:
        (keeper.book.open if opens else keeper.book.close)(leg)
        if opens and leg not in model and len(model) < 3:
            model[leg] = keeper.book.transfer_params(leg)[LEASE_KEY][0]
            assert model[leg] not in seen
            seen.add(model[leg])
        elif not opens:
            model.pop(leg, None)
            assert keeper.book.transfer_params(leg) == {}
    keeper.words.obey(keeper.book.take_orders())
    assert sorted(number for number in keeper.words._words.tolist() if number) == sorted(model.values())
    assert keeper.book.take_orders() == []


def test_a_leg_without_a_slot_gets_no_handle() -> None:
    """It is computed again by whoever would have read it."""
    keeper = Keeper(slots=1)
    keeper.keep("first")
    keeper.book.open("second")
    assert keeper.book.transfer_params("second") == {}


def test_every_rank_has_its_own_address() -> None:
    """In the order of ranks, whatever order they were heard in."""
    book = LeaseBook(2)
    book.locate({1: 1000, 0: 500})
    book.open("a")
    book.open("b")
    assert book.transfer_params("a")[LEASE_KEY][1] == [500, 1000]
    assert book.transfer_params("b")[LEASE_KEY][1] == [508, 1008]


@pytest.mark.parametrize("wrong", ["number", "rank", "lease", "refused", "broken"])
def test_what_cannot_be_checked_is_not_used(wrong: str) -> None:
    """Another number, a rank without a word, a leg without a lease, a word that cannot be asked for or does not come."""
    nixl, keeper = FakeNixl(), Keeper()
    number, addresses = keeper.keep("first")
    check = make_check(nixl)
    if wrong != "lease":
        check.expect({"reader": (number + (wrong == "number"), addresses)})
    check.reading("reader", "keeper", 5 if wrong == "rank" else 0)
    nixl.refusing = wrong == "refused"
    assert check.check("reader")
    if wrong == "broken":
        nixl.fail()
    nixl.copy_all()
    assert check.verdicts() == {"reader": False}


def test_several_sources_must_all_be_right() -> None:
    """One rank's word that is gone fails the pull, and the verdict waits for the last word."""
    nixl, keepers = FakeNixl(), [Keeper(), Keeper()]
    check = make_check(nixl)
    (number, first), (_, second) = (keeper.keep("leg") for keeper in keepers)
    keepers[1].words._words[0] = number  # ranks of one engine hold the same number
    check.expect({"good": (number, [*first, *second]), "bad": (number, [*first, *second])})
    for rank in (0, 1):
        check.reading("good", f"rank-{rank}", rank)
        check.reading("bad", f"rank-{rank}", rank)
    assert check.check("good")
    nixl.copy_one(nixl.reads[0])
    assert check.verdicts() == {}
    nixl.copy_all()
    assert check.verdicts() == {"good": True}
    keepers[1].end("leg")
    assert check.check("bad")
    nixl.copy_all()
    assert check.verdicts() == {"bad": False}


def test_nothing_read_is_nothing_to_check() -> None:
    """A full hit in the local cache, or a rank without a share."""
    check = make_check(FakeNixl())
    check.expect({"reader": (1, [])})
    assert not check.check("reader")
    assert not check.check("never")


def test_a_silent_peer_is_overdue_and_costs_slots_only_until_it_speaks() -> None:
    """Words that are given up are not read over: their slots come back when nothing can be written there any more."""
    nixl, keeper = FakeNixl(), Keeper()
    check = make_check(nixl, timeout_s=3.0)
    slots = len(check._free)
    check.expect({"reader": keeper.keep("leg")})
    check.reading("reader", "keeper", 0)
    check.check("reader")
    overdue: list[str] = []
    while not overdue:
        assert check.verdicts() == {}
        overdue = check.overdue()
    assert overdue == ["reader"]
    check.forget("reader")
    check.verdicts()
    assert len(check._free) == slots - 1
    nixl.fail()
    check.verdicts()
    assert len(check._free) == slots
