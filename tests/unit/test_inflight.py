"""The router's books of what it has sent: they add up to what has not ended, whatever the order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.ids import LegId, RequestId, WorkerId
from router.inflight import InFlight

P, D = WorkerId("p"), WorkerId("d")
A, B = LegId("a:0"), LegId("b:0")


def test_a_leg_counts_until_it_ends() -> None:
    """Its prompt until the first token, its context and output until the end; on its own worker."""
    books = InFlight()
    books.sent(A, P, 100, 0, 100)
    books.sent(B, P, 30, 50, 30)
    assert (books.prefill_tokens(P), books.decode_tokens(P), books.pending_tokens(P), books.legs(P)) == (130, 50, 130, 2)
    books.prompt_done(B)
    assert (books.prefill_tokens(P), books.decode_tokens(P), books.pending_tokens(P), books.legs(P)) == (100, 50, 100, 2)
    books.ended(B)
    assert (books.prefill_tokens(P), books.decode_tokens(P), books.pending_tokens(P), books.legs(P)) == (100, 0, 100, 1)
    assert (books.prefill_tokens(D), books.decode_tokens(D)) == (0, 0)


def test_every_end_counts_once() -> None:
    """A finish and the abort that crosses it are one end; legs nobody sent have none."""
    books = InFlight()
    books.sent(A, P, 100, 7, 100)
    for _ in range(2):
        books.prompt_done(A)
        books.ended(A)
    books.ended(B)
    books.prompt_done(B)
    assert (books.prefill_tokens(P), books.decode_tokens(P), len(books)) == (0, 0, 0)


Steps = st.lists(
    st.tuples(
        st.sampled_from(["sent", "done", "ended"]), st.integers(0, 6), st.sampled_from([P, D]), st.integers(0, 99), st.integers(0, 99)
    )
)


@given(Steps)
def test_books_add_up(steps: list[tuple[str, int, WorkerId, int, int]]) -> None:
    """Never below zero, and zero again when all has ended."""
    books, model = InFlight(), dict[LegId, list[object]]()
    for what, number, worker, prefill, decode in steps:
        leg = LegId(f"r:{number}")
        if what == "sent" and leg not in model:
            books.sent(leg, worker, prefill, decode, prefill + 1)
            model[leg] = [worker, prefill, decode, prefill + 1, False]
        elif what == "done":
            books.prompt_done(leg)
            if leg in model:
                model[leg][1] = model[leg][3] = 0
                model[leg][4] = True
        elif what == "ended":
            books.ended(leg)
            model.pop(leg, None)
        for name in (P, D):
            assert books.prefill_tokens(name) == sum(int(str(entry[1])) for entry in model.values() if entry[0] == name)
            assert books.decode_tokens(name) == sum(int(str(entry[2])) for entry in model.values() if entry[0] == name)
            assert books.pending_tokens(name) == sum(int(str(entry[3])) for entry in model.values() if entry[0] == name)
            assert books.legs(name) == sum(entry[0] == name for entry in model.values())
            assert books.unanswered(name) == sum(entry[0] == name and not entry[4] for entry in model.values())
    for leg in list(model):
        books.ended(leg)
    assert [books.prefill_tokens(P), books.decode_tokens(P), books.prefill_tokens(D), books.decode_tokens(D), len(books)] == [0] * 5


def test_a_plan_counts_until_its_leg_is_sent() -> None:
    """The decode worker of a request that is still prefilling has that request on its books; planned anew, only the new one."""
    books = InFlight()
    request, old, new = RequestId("r"), WorkerId("d1"), WorkerId("d2")
    books.planned(request, old, 100, 60)
    assert (books.decode_tokens(old), books.prefill_tokens(old), books.pending_tokens(old), books.legs(old)) == (100, 0, 60, 1)
    books.planned(request, new, 120, 60)
    assert (books.decode_tokens(old), books.decode_tokens(new), books.legs(old)) == (0, 120, 0)
    books.unplanned(request)
    books.unplanned(request)
    assert (books.decode_tokens(new), books.pending_tokens(new), books.legs(new), len(books)) == (0, 0, 0, 0)
