"""The router's books of what it has sent: they add up to what has not ended, whatever the order."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import LegId, RequestId, WorkerId
from router.arrivals import Arrival
from router.inflight import InFlight, Slack, Work
from router.plan import SLACKS, Books

P, D = WorkerId("p"), WorkerId("d")
A, B = LegId("a:0"), LegId("b:0")


def prompt(tokens: int, cached: int = 0) -> Work:
    return Work(tokens, tokens - cached, 0, tokens)


def whole(tokens: int, output: int, finishes_s: float | None = None) -> Work:
    return Work(tokens, tokens, tokens + output, tokens, finishes_s)


def test_a_leg_counts_until_it_ends() -> None:
    """Its prompt until the first token, its context and output until the end; on its own worker."""
    books = InFlight()
    books.sent(A, P, prompt(100), 0.0)
    books.sent(B, P, whole(30, 20), 0.0)
    assert (books.prefill_tokens(P), books.decode_tokens(P), books.pending_tokens(P), books.legs(P)) == (130, 50, 130, 2)
    books.made(B, 1, 1.0)
    assert (books.prefill_tokens(P), books.decode_tokens(P), books.pending_tokens(P), books.legs(P)) == (100, 50, 100, 2)
    books.ended(B, 2.0)
    assert (books.prefill_tokens(P), books.decode_tokens(P), books.pending_tokens(P), books.legs(P)) == (100, 0, 100, 1)
    assert (books.prefill_tokens(D), books.decode_tokens(D)) == (0, 0)


def test_every_end_counts_once() -> None:
    """A finish and the abort that crosses it are one end; legs nobody sent have none."""
    books = InFlight()
    books.sent(A, P, whole(100, 7), 0.0)
    for _ in range(2):
        books.made(A, 1, 1.0)
        books.ended(A, 1.0)
    books.ended(B, 1.0)
    books.made(B, 1, 1.0)
    assert (books.prefill_tokens(P), books.decode_tokens(P), len(books)) == (0, 0, 0)
    assert books.books(P) == Books(head_since_s=1.0)


def test_the_first_prompt_is_first_until_it_is_computed() -> None:
    """What of it is done can be told from how long it has been the first; a later one that goes leaves that time alone."""
    books, third = InFlight(), LegId("c:0")
    books.sent(A, P, prompt(100, cached=60), 1.0)
    books.sent(B, P, prompt(50), 2.0)
    books.sent(third, P, prompt(20), 3.0)
    assert books.books(P) == Books(3, 110, 100**2 - 60**2 + 50**2 + 20**2, 1.0, 40)
    books.ended(B, 4.0)
    assert books.books(P) == Books(2, 60, 100**2 - 60**2 + 20**2, 1.0, 40)
    books.made(A, 1, 5.0)
    assert books.books(P) == Books(1, 20, 20**2, 5.0, 20)


def test_those_that_decode_count_with_all_their_tokens() -> None:
    """From the plan on, growing with what they make; when they will be done is kept in order."""
    books = InFlight()
    books.planned(RequestId("a"), D, Work(0, 0, 160, 100, 9.0))
    books.sent(B, D, Work(0, 0, 40, 30, 5.0), 0.0)
    books.made(B, 4, 1.0)
    assert books.books(D) == Books(1, decoding=2, context_tokens=134, finishes_s=(5.0, 9.0), handovers=1)
    books.unplanned(RequestId("a"))
    assert books.books(D) == Books(0, decoding=1, context_tokens=34, finishes_s=(5.0,))


def test_how_many_will_still_decode() -> None:
    """Those predicted to be done by then are not counted; those that should be done already, and are not, are."""
    books = Books(decoding=4, finishes_s=(1.0, 5.0, 6.0))
    assert [books.decoding_at(then, 2.0) for then in (2.0, 5.0, 7.0)] == [4, 3, 2]


def test_prompts_use_up_the_slack_of_those_that_decode() -> None:
    """Whoever was there when a prompt came is held up by it, its own request is not; who has no slack left is broken no more."""
    books = InFlight()
    for leg, slack_s in ((A, 0.2), (B, 0.5)):
        books.sent(leg, D, Work(0, 0, 40, 30, 9.0, Slack(slack_s / 10, (11.0,) * SLACKS)), 0.0)
    assert [books.books(D).broken_by(stall_s) for stall_s in (0.0, 0.1, 0.3, 0.6)] == [0, 0, 1, 2]
    third = LegId("c:0")
    books.sent(third, D, Work(30, 30, 40, 30, 9.0, Slack(0.01, (11.0,) * SLACKS), stall_s=0.3), 0.0)
    assert [books.books(D).broken_by(stall_s) for stall_s in (0.05, 0.15, 0.25)] == [0, 1, 2]
    for leg in (A, B, third):
        books.ended(leg, 1.0)
    assert books.books(D).broken_by(9.0) == 0


def test_a_prompt_that_is_not_computed_holds_nobody_up() -> None:
    """Refused or aborted: those that were there have their slack again, and those that came behind it have no more than theirs."""
    books, prompt_, later = InFlight(), LegId("c:0"), LegId("d:0")
    books.sent(A, D, Work(0, 0, 40, 30, 9.0, Slack(0.02, (11.0,) * SLACKS)), 0.0)
    for _ in range(9):
        books.sent(prompt_, D, Work(30, 30, 40, 30, 9.0, Slack(0.01, (11.0,) * SLACKS), stall_s=0.3), 1.0)
        books.ended(prompt_, 1.0)
    assert [books.books(D).broken_by(stall_s) for stall_s in (0.19, 0.21)] == [0, 1]
    books.sent(prompt_, D, Work(30, 30, 40, 30, 9.0, None, stall_s=0.3), 1.0)
    books.sent(B, D, Work(30, 30, 40, 30, 9.0, Slack(0.01, (11.0,) * SLACKS), stall_s=0.5), 1.0)
    books.sent(later, D, Work(0, 0, 40, 30, 9.0, Slack(0.05, (11.0,) * SLACKS)), 1.0)
    books.ended(B, 1.0)
    books.ended(prompt_, 1.1)  # a third of it was computed
    assert [books.books(D).broken_by(stall_s) for stall_s in (0.09, 0.11, 0.49, 0.51)] == [0, 1, 1, 2]
    for leg in (A, later):
        books.ended(leg, 2.0)
    assert books.books(D).slacks_s == ()


def test_a_longer_answer_has_more_slack() -> None:
    """Each token behind the first gains some. Who has outgrown a likely length is of the longer ones, or becomes twice as long as it is."""
    books = InFlight()
    books.sent(A, D, Work(0, 0, 40, 30, 9.0, Slack(0.01, (5.0, 9.0, 17.0, 33.0, 65.0), spent_s=0.05)), 0.0)

    def lengths() -> list[float]:
        return [round((slack_s + 0.05) / 0.01) + 1 for slack_s in books.books(D).slacks_s]

    assert lengths() == [5, 9, 17, 33, 65]
    assert books.books(D).broken_by(0.1) == pytest.approx(1 / SLACKS)  # of 5 tokens it is lost already, of 9 it would be
    books.made(A, 5, 1.0)
    assert lengths() == [5, 9, 17, 33, 65]
    books.made(A, 1, 1.0)
    assert lengths() == [9, 9, 17, 33, 65]
    books.made(A, 60, 1.0)
    assert lengths() == [132] * 5


def test_how_much_longer_every_step_may_take() -> None:
    """However many are: by each length that an answer may have, hand-over included. Whoever bears nothing does not count."""
    books = InFlight()
    assert books.books(D).broken_by_steps(9.0) == 0
    for leg, token_s, spent_s in ((A, 0.02, 0.04), (B, 0.012, 0.0), (LegId("c:0"), 0.01, 0.3)):
        books.sent(leg, D, Work(0, 0, 40, 30, 9.0, Slack(token_s, (5.0, 6.0, 9.0, 11.0, 21.0), spent_s)), 0.0)
    # One that loses 0.04 s by its hand-over bears 10, 12, 15, 16 and 18 ms; one that loses nothing 12 each time.
    of_the_third = 0  # 10 ms less 75, 60, 38, 30 and 15
    assert [books.books(D).broken_by_steps(ms / 1000) for ms in (9.9, 10.1, 15.5, 30)] == [of_the_third, 1 / 5, 1 + 3 / 5, 2]
    books.ended(A, 1.0)
    assert [books.books(D).broken_by_steps(ms / 1000) for ms in (11.9, 12.1)] == [of_the_third, 1]


def test_what_is_to_be_pulled_stands_there_until_the_first_token() -> None:
    """In the order in which it will be ready; what is planned until it is sent, or given up."""
    books, a, b = InFlight(), Arrival(3.0, 0.1, False), Arrival(2.0, 0.2, True)
    books.planned(RequestId("a"), D, Work(0, 0, 160, 100, 9.0, arrival=a))
    books.sent(B, D, Work(0, 0, 40, 30, 5.0, arrival=b), 2.0)
    assert books.books(D).arrivals == (b, a)
    books.made(B, 1, 2.5)
    assert books.books(D).arrivals == (a,)
    books.ended(B, 4.0)
    books.unplanned(RequestId("a"))
    assert books.books(D).arrivals == ()


def test_handovers_count_until_their_first_token() -> None:
    """Planned or sent, with the prompt computed elsewhere; a leg that computes its own is none."""
    books = InFlight()
    books.planned(RequestId("a"), D, Work(0, 0, 160, 100, 9.0))
    books.sent(B, D, Work(0, 0, 40, 30, 5.0), 0.0)
    books.sent(LegId("c:0"), D, Work(30, 30, 40, 30, 9.0), 0.0)
    assert books.books(D).handovers == 2
    books.made(B, 1, 1.0)
    assert books.books(D).handovers == 1
    books.unplanned(RequestId("a"))
    books.ended(B, 2.0)
    assert books.books(D).handovers == 0


@dataclass
class _Modelled:
    worker: WorkerId
    prefill: int
    decode: int
    pending: int
    answered: bool = False


Steps = st.lists(
    st.tuples(
        st.sampled_from(["sent", "made", "ended"]), st.integers(0, 6), st.sampled_from([P, D]), st.integers(0, 99), st.integers(0, 99)
    )
)


@given(Steps)
def test_books_add_up(steps: list[tuple[str, int, WorkerId, int, int]]) -> None:
    """Never below zero, and zero again when all has ended."""
    books, model = InFlight(), dict[LegId, _Modelled]()
    for now, (what, number, worker, prefill, decode) in enumerate(steps):
        leg = LegId(f"r:{number}")
        if what == "sent" and leg not in model:
            books.sent(
                leg,
                worker,
                Work(
                    prefill,
                    prefill // 2,
                    decode,
                    prefill + 1,
                    now + 5.0 if decode else None,
                    Slack(0.01, (3.0,) * SLACKS, 0.1) if decode else None,
                    0.1,
                    Arrival(float(now), 0.1, False) if decode and not prefill else None,
                ),
                now,
            )
            model[leg] = _Modelled(worker, prefill, decode, prefill + 1)
        elif what == "made":
            books.made(leg, 2, now)
            if leg in model:
                model[leg].prefill = model[leg].pending = 0
                model[leg].answered = True
        elif what == "ended":
            books.ended(leg, now)
            model.pop(leg, None)
        for name in (P, D):
            there = [entry for entry in model.values() if entry.worker == name]
            assert books.prefill_tokens(name) == sum(entry.prefill for entry in there)
            assert books.decode_tokens(name) == sum(entry.decode for entry in there)
            assert books.pending_tokens(name) == sum(entry.pending for entry in there)
            assert books.legs(name) == len(there)
            assert books.unanswered(name) == sum(not entry.answered for entry in there)
            assert (
                len(books.books(name).finishes_s)
                == len(books.books(name).slacks_s) / SLACKS
                == books.books(name).decoding
                == sum(entry.decode > 0 for entry in there)
            )
    for leg in list(model):
        books.ended(leg, 1e9)
    for name in (P, D):
        left = books.books(name)
        assert (left.unanswered, left.uncached_tokens, left.squares, left.decoding, left.context_tokens, left.finishes_s) == (0,) * 5 + (
            (),
        )
        assert (books.prefill_tokens(name), books.decode_tokens(name), books.legs(name)) == (0, 0, 0)


def test_a_plan_counts_until_its_leg_is_sent() -> None:
    """The decode worker of a request that is still prefilling has that request on its books; planned anew, only the new one."""
    books = InFlight()
    request, old, new = RequestId("r"), WorkerId("d1"), WorkerId("d2")
    books.planned(request, old, Work(0, 0, 100, 60))
    assert (books.decode_tokens(old), books.prefill_tokens(old), books.pending_tokens(old), books.legs(old)) == (100, 0, 60, 1)
    books.planned(request, new, Work(0, 0, 120, 60))
    assert (books.decode_tokens(old), books.decode_tokens(new), books.legs(old)) == (0, 120, 0)
    books.unplanned(request)
    books.unplanned(request)
    assert (books.decode_tokens(new), books.pending_tokens(new), books.legs(new), len(books)) == (0, 0, 0, 0)
