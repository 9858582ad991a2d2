"""What a worker tells one router of what it does for the others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.leg_book import LegBook
from cluster.messages import AddLeg, LegKind
from core.handle import KVHandle
from core.ids import Epoch, LegId, RouterId, WorkerId
from core.worker import OthersLoad

ONE, TWO = RouterId("one"), RouterId("two")
HANDLE = KVHandle(WorkerId("p"), Epoch(1), LegId("k"), 30, 2, 10.0, {})


def add(leg: str, kind: LegKind, tokens: int) -> AddLeg:
    return AddLeg(LegId(leg), Epoch(1), kind, tokens, handle=HANDLE if kind is LegKind.DECODE else None)


def test_others_are_all_but_the_one_that_is_told() -> None:
    """Prompts count until their first token, contexts from then on, and grow; a pull is to come until then."""
    book = LegBook()
    book.enter(ONE, add("w", LegKind.WHOLE, 100))
    book.enter(ONE, add("d", LegKind.DECODE, 40))
    book.enter(TWO, add("p", LegKind.PREFILL, 7))
    assert book.others(TWO) == OthersLoad(legs=2, prompt_tokens=100, arriving_tokens=40)
    assert book.others(ONE) == OthersLoad(legs=1, prompt_tokens=7)
    assert book.others(RouterId("three")) == OthersLoad(legs=3, prompt_tokens=107, arriving_tokens=40)
    for tokens in (1, 3, 0):
        for leg in ("w", "d"):
            seen = book.get(LegId(leg))
            assert seen is not None
            book.told(seen, tokens)
    assert book.others(TWO) == OthersLoad(legs=2, decoding=2, context_tokens=104 + 44)
    book.end(LegId("w"))
    assert book.others(TWO) == OthersLoad(legs=1, decoding=1, context_tokens=44)
    book.clear()
    assert book.others(RouterId("three")) == OthersLoad()


def test_what_waits_with_a_router_is_told_to_the_others() -> None:
    """The newest of each counts; a router that is gone has nobody waiting."""
    book = LegBook()
    book.queued(ONE, 500)
    book.queued(TWO, 30)
    book.queued(ONE, 200)
    assert [book.others(router).queued_tokens for router in (ONE, TWO, RouterId("three"))] == [30, 200, 230]
    book.queued(ONE, 0)
    assert [book.others(router).queued_tokens for router in (ONE, TWO)] == [30, 0]


@given(
    st.lists(st.tuples(st.sampled_from(["enter", "told", "end"]), st.integers(0, 5), st.sampled_from([ONE, TWO]), st.sampled_from(LegKind)))
)
def test_sums_are_those_of_the_legs(events: list[tuple[str, int, RouterId, LegKind]]) -> None:
    """Whatever happens in whatever order; nothing is left when all have ended."""
    book, known = LegBook(), {}
    for what, number, owner, kind in events:
        name = LegId(str(number))
        leg = book.get(name)
        if what == "enter":
            book.enter(owner, add(name, kind, 10 + number))
            known[name] = owner
        elif what == "told" and leg is not None:
            book.told(leg, number)
        elif what == "end":
            book.end(name)
    for router, other in ((ONE, TWO), (TWO, ONE)):
        legs = [leg for name in known if (leg := book.get(name)) is not None and leg.owner == other]
        assert book.others(router) == OthersLoad(
            legs=len(legs),
            prompt_tokens=sum(leg.tokens for leg in legs if leg.computes_prompt and not leg.has_token),
            decoding=sum(leg.has_token for leg in legs),
            context_tokens=sum(leg.tokens + leg.told_tokens for leg in legs if leg.has_token),
            arriving_tokens=sum(leg.tokens for leg in legs if not leg.computes_prompt and not leg.has_token),
        )
    for name in known:
        book.end(name)
    assert book.others(RouterId("three")) == OthersLoad()
