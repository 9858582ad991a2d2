"""Whether there is room: tables of rooms and legs for both kinds of worker."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.admission import Room
from cluster.leg_book import LegBook
from cluster.messages import AddLeg, LegKind
from core.handle import KVHandle
from core.ids import Epoch, LegId, RouterId, WorkerId
from core.worker import EngineFacts, WorkerLoad
from decode_workers.admission import DecodeAdmission
from prefill_workers.admission import PrefillAdmission

FACTS = EngineFacts(block_size_tokens=16, num_blocks=100, max_model_len=1600, max_num_seqs=4, max_num_batched_tokens=64)
PREFILL, DECODE, WHOLE = LegKind.PREFILL, LegKind.DECODE, LegKind.WHOLE
HANDLE = KVHandle(WorkerId("p"), Epoch(1), LegId("x"), 20, 2, 10.0, {})


def room(free: int = 100, leased: int = 0, **given: Any) -> Room:
    return Room(FACTS, WorkerLoad(free_blocks=free, num_blocks=100, leased_blocks=leased), **given)


def add(tokens: int, kind: LegKind = PREFILL, handle: KVHandle | None = None) -> AddLeg:
    return AddLeg(LegId("a"), Epoch(1), kind, tokens, handle=handle)


PROMPTS: dict[str, tuple[AddLeg, Room, str | None]] = {
    "nothing there": (add(10), room(), None),
    "nothing there, however long": (add(100_000), room(), None),
    "up to the limit": (add(56), room(legs=1, prompt_tokens=200), None),
    "one beyond": (add(57), room(legs=1, prompt_tokens=200), "200 prompt tokens are ahead of its 57; the limit is 256"),
    "the one ahead is beyond the limit by itself": (add(1), room(legs=1, prompt_tokens=1000), "1000 prompt tokens are ahead"),
    "others only generate: however long": (add(1000), room(legs=3), None),
    "whole legs count": (add(57, WHOLE), room(legs=1, prompt_tokens=200), "200 prompt tokens"),
    "pulled KV is not computed": (add(57, DECODE, HANDLE), room(legs=1, prompt_tokens=200), None),
    "decode without KV computes": (add(57, DECODE), room(legs=1, prompt_tokens=200), "200 prompt tokens"),
    "KV: leased blocks are used ones": (add(33), room(free=2, leased=98), "3 KV blocks are needed; 2 of 100 are free"),
    "KV: just fits": (add(32), room(free=2, leased=98), None),
    "KV: room for growth is kept": (add(33), room(free=6, legs=2, growing_legs=2), "4 are for 2 legs to grow into"),
    "KV: what has just come is not in the numbers yet": (add(33), room(free=9, legs=1, unseen_blocks=7), "7 go to legs that have just"),
}
"""A limit of four steps, headroom of 32 tokens."""


@pytest.mark.parametrize(("leg", "at", "reason"), PROMPTS.values(), ids=PROMPTS.keys())
def test_prefill(leg: AddLeg, at: Room, reason: str | None) -> None:
    """Prompts ahead, and KV."""
    told = PrefillAdmission(None, 32).refusal(leg, at)
    assert (told is None) == (reason is None), told
    assert reason is None or reason in str(told)


ANSWERS: dict[str, tuple[AddLeg, Room, str | None]] = {
    "nothing there": (add(10, DECODE), room(), None),
    "idle, by numbers that are old": (add(1000, DECODE), room(free=0), None),
    "not idle while KV is kept": (add(1000, DECODE), room(free=0, leased=90), "63 KV blocks are needed; 0 of 100"),
    "as many as run at once": (add(10, DECODE), room(legs=4, growing_legs=4), "4 legs run; the engine runs 4 at once"),
    "one fewer": (add(10, DECODE), room(legs=3, growing_legs=3), None),
    "headroom of all fits": (add(16, DECODE), room(free=7, legs=3, growing_legs=3), None),
    "headroom of one does not": (add(17, DECODE), room(free=7, legs=3, growing_legs=3), "6 are for 3 legs"),
    "whole": (add(17, WHOLE), room(free=7, legs=3, growing_legs=3), "6 are for 3 legs"),
    "prefills do not grow": (add(17, DECODE), room(free=7, legs=3), None),
    "unseen": (add(16, DECODE), room(free=7, legs=1, growing_legs=1, unseen_blocks=5), "5 go to legs"),
}


@pytest.mark.parametrize(("leg", "at", "reason"), ANSWERS.values(), ids=ANSWERS.keys())
def test_decode(leg: AddLeg, at: Room, reason: str | None) -> None:
    """Legs, and KV for them to grow into."""
    told = DecodeAdmission(32).refusal(leg, at)
    assert (told is None) == (reason is None), told
    assert reason is None or reason in str(told)


def test_a_limit_of_its_own() -> None:
    """Where the configuration says one."""
    assert PrefillAdmission(1000, 0).limit(FACTS) == 1000
    assert PrefillAdmission(None, 0).limit(FACTS) == 256


def test_the_book_sees_legs_until_they_have_a_token() -> None:
    """Their prompts count from the moment they are taken; with the first token the engine's own numbers have them."""
    book, load = LegBook(), WorkerLoad()
    one, two = RouterId("one"), RouterId("two")
    book.enter(one, AddLeg(LegId("p"), Epoch(1), PREFILL, 20))
    book.enter(two, AddLeg(LegId("d"), Epoch(1), DECODE, 33, handle=HANDLE))
    book.enter(one, AddLeg(LegId("w"), Epoch(1), WHOLE, 5))
    assert book.room(FACTS, load) == Room(FACTS, load, legs=3, growing_legs=2, prompt_tokens=25, unseen_blocks=2 + 3 + 1)
    assert book.by_owner() == {one: ["p", "w"], two: ["d"]}
    seen = book.get(LegId("w"))
    assert seen is not None
    book.told(seen, 1)
    assert book.room(FACTS, load) == Room(FACTS, load, legs=3, growing_legs=2, prompt_tokens=20, unseen_blocks=2 + 3)
    book.end(LegId("p"))
    book.end(LegId("p"))
    assert (book.of_owner(one), book.of_owner(two), len(book), book.get(LegId("p"))) == (["w"], ["d"], 2, None)
    book.clear()
    assert book.room(FACTS, load) == Room(FACTS, load)
