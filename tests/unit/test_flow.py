"""One request's state machine: each arrow by a table, then any order of events by a machine that keeps the workers' side."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.messages import LegKind
from core.handle import KVHandle
from core.ids import Epoch, LegId, RequestId, WorkerId, leg_id
from router.events import (
    Aborted,
    Event,
    FailKind,
    Finish,
    GivenUp,
    LegFailed,
    LegOutput,
    MoveAsked,
    NoRoom,
    Planned,
    Refused,
    Woken,
    WorkerBack,
    WorkerLost,
)
from router.flow import Flow, Phase
from router.instructions import AbortLeg, AskDecode, AskPlan, Fail, Finished, Instruction, Pass, Pause, SendLeg, Wait
from router.plan import Plan
from router.retry import Retry
from router.traits import Traits

R = RequestId("r")
P, P2, D, D2 = (WorkerId(name) for name in ("p", "p2", "d", "d2"))
L0, L1, L2, L3 = (leg_id(R, number) for number in range(4))
COUNTS = Traits(True, True, "")
HOLDS = Traits(True, False, "why not")
WHOLE = Traits(False, False, "why not")
ONE = Traits(False, True, "")
RETRY = Retry(max_losses=3, backoff_s=0.1, jitter=lambda: 0.5)
ENGINE_ERROR = Fail(FailKind.ENGINE, "the engine reported an error for this request")
SPLIT = Planned(Plan(P, D))


def handle_of(leg: LegId, worker: WorkerId) -> KVHandle:
    return KVHandle(worker, Epoch(1), leg, 20, 2, 10.0, {})


HANDLE = handle_of(L0, P)
KEPT = LegOutput(L0, [7], Finish.LENGTH, HANDLE)
NOT_KEPT = LegOutput(L0, [7], Finish.LENGTH)


def after(how: Traits, *events: Event) -> tuple[Flow, list[Instruction]]:
    """A flow that has taken these events, and what the last one made it say."""
    flow = Flow(R, how, RETRY)
    said = flow.start()
    for event in events:
        said = flow.handle(event)
    return flow, said


def ask(*excluded: WorkerId, keeper: WorkerId | None = None) -> AskPlan:
    return AskPlan(frozenset(excluded), keeper)


BEGUN: list[Event] = [SPLIT, KEPT, SPLIT, LegOutput(L1, [8])]
"""Decoding, the prompt's KV was read, two tokens are out."""

TABLE: dict[str, tuple[Traits, list[Event], Phase, list[Instruction]]] = {
    # the KV that nobody read
    "decoding, the prompt was computed again: the kept KV is let go": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, LegOutput(L1, [8], recomputed=True)],
        Phase.DECODING,
        [Pass.ON, AbortLeg(L0, P)],
    ),
    "decoding, the KV was read": (COUNTS, BEGUN, Phase.DECODING, [Pass.ON]),
    # planning
    "start": (COUNTS, [], Phase.PLANNING, [ask()]),
    "planning, split, can be continued": (COUNTS, [SPLIT], Phase.PREFILLING, [SendLeg(L0, P, LegKind.PREFILL)]),
    "planning, split, cannot be continued": (HOLDS, [SPLIT], Phase.PREFILLING, [SendLeg(L0, P, LegKind.PREFILL, first_token_counts=False)]),
    "planning, one worker": (COUNTS, [Planned(Plan(D, D))], Phase.DECODING, [SendLeg(L0, D, LegKind.WHOLE)]),
    "planning, split plan for what cannot be split": (WHOLE, [SPLIT], Phase.DECODING, [SendLeg(L0, D, LegKind.WHOLE)]),
    "planning, no room": (COUNTS, [NoRoom()], Phase.WAITING, [Wait()]),
    "planning, aborted": (COUNTS, [Aborted()], Phase.DONE, [Finished()]),
    "planning, somebody is lost": (COUNTS, [WorkerLost(P, "x")], Phase.PLANNING, []),
    "planning, hopeless": (
        COUNTS,
        [GivenUp(FailKind.ENGINE, "too long")],
        Phase.DONE,
        [Fail(FailKind.ENGINE, "too long"), Finished()],
    ),
    # waiting
    "waiting, woken": (COUNTS, [NoRoom(), Woken()], Phase.PLANNING, [ask()]),
    "waiting, woken, no room again": (COUNTS, [NoRoom(), Woken(), NoRoom()], Phase.WAITING, [Wait()]),
    "waiting, woken, who refused is asked again": (COUNTS, [SPLIT, Refused(L0, "full"), NoRoom(), Woken()], Phase.PLANNING, [ask()]),
    "waiting, too long": (
        COUNTS,
        [NoRoom(), GivenUp(FailKind.OVERLOADED, "late")],
        Phase.DONE,
        [Fail(FailKind.OVERLOADED, "late"), Finished()],
    ),
    "waiting, aborted": (COUNTS, [NoRoom(), Aborted()], Phase.DONE, [Finished()]),
    "waiting with a computed prompt, woken": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, Refused(L1, "full"), NoRoom(), Woken()],
        Phase.PLANNING,
        [ask(keeper=P)],
    ),
    "waiting with a computed prompt, its lease is over": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, Refused(L1, "full"), NoRoom(), Woken(handle_alive=False)],
        Phase.PLANNING,
        [AbortLeg(L0, P), ask()],
    ),
    "waiting with a computed prompt, its keeper is lost": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, Refused(L1, "full"), NoRoom(), WorkerLost(P, "x"), Woken()],
        Phase.PLANNING,
        [ask()],
    ),
    "waiting with a computed prompt, aborted": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, Refused(L1, "full"), NoRoom(), Aborted()],
        Phase.DONE,
        [AbortLeg(L0, P), Finished()],
    ),
    # prefilling
    "prefilled, kept": (COUNTS, [SPLIT, KEPT], Phase.PLANNING, [Pass.ON_UNFINISHED, AskDecode(ask(keeper=P))]),
    "prefilled, kept, aborted": (COUNTS, [SPLIT, KEPT, Aborted()], Phase.DONE, [AbortLeg(L0, P), Finished()]),
    "prefilled, held": (HOLDS, [SPLIT, KEPT], Phase.PLANNING, [Pass.HOLD, AskDecode(ask(keeper=P))]),
    "handed over to another one than was planned": (
        COUNTS,
        [SPLIT, KEPT, Planned(Plan(P, D2))],
        Phase.DECODING,
        [SendLeg(L1, D2, LegKind.DECODE, handle=HANDLE, emitted=(7,))],
    ),
    "handed over": (
        COUNTS,
        [SPLIT, KEPT, SPLIT],
        Phase.DECODING,
        [SendLeg(L1, D, LegKind.DECODE, handle=HANDLE, emitted=(7,))],
    ),
    "prefilled, not kept": (COUNTS, [SPLIT, NOT_KEPT], Phase.DECODING, [Pass.ON_UNFINISHED, SendLeg(L1, D, LegKind.DECODE, emitted=(7,))]),
    "handed over, the token is held": (HOLDS, [SPLIT, KEPT, SPLIT], Phase.DECODING, [SendLeg(L1, D, LegKind.DECODE, handle=HANDLE)]),
    "prefilled, held, its thrown away token would have stopped": (
        HOLDS,
        [SPLIT, LegOutput(L0, [7], Finish.STOP, HANDLE), SPLIT],
        Phase.DECODING,
        [SendLeg(L1, D, LegKind.DECODE, handle=HANDLE)],
    ),
    "prefilled, stopped at once, kept": (
        COUNTS,
        [SPLIT, LegOutput(L0, [7], Finish.STOP, HANDLE)],
        Phase.DONE,
        [Pass.ON, AbortLeg(L0, P), Finished()],
    ),
    "prefilled, stopped at once": (COUNTS, [SPLIT, LegOutput(L0, [7], Finish.STOP)], Phase.DONE, [Pass.ON, Finished()]),
    "prefilling, error": (COUNTS, [SPLIT, LegOutput(L0, [], Finish.ERROR)], Phase.DONE, [ENGINE_ERROR, Finished()]),
    "prefilling, refused": (COUNTS, [SPLIT, Refused(L0, "full")], Phase.PLANNING, [ask(P)]),
    "prefilling, refused for want of room": (COUNTS, [SPLIT, Refused(L0, "full", busy=True)], Phase.PLANNING, [ask()]),
    "prefilling, its worker is unable": (COUNTS, [SPLIT, Refused(L0, "no such", unable=True)], Phase.PLANNING, [ask(P)]),
    "decoding, its worker is unable: another one reads the same KV": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, Refused(L1, "no such", unable=True)],
        Phase.PLANNING,
        [ask(D, keeper=P)],
    ),
    "waiting, woken, who is unable is not asked again": (
        COUNTS,
        [SPLIT, Refused(L0, "no such", unable=True), NoRoom(), Woken()],
        Phase.PLANNING,
        [ask(P)],
    ),
    "planning, nobody is able, with a computed prompt": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, Refused(L1, "no such", unable=True), GivenUp(FailKind.ABSENT, "no such")],
        Phase.DONE,
        [AbortLeg(L0, P), Fail(FailKind.ABSENT, "no such"), Finished()],
    ),
    "prefilling, failed": (COUNTS, [SPLIT, LegFailed(L0, "died")], Phase.PLANNING, [ask(P)]),
    "prefilling, asked to move": (COUNTS, [SPLIT, MoveAsked(L0, "x")], Phase.PLANNING, [AbortLeg(L0, P), ask(P)]),
    "prefilling, its worker lost": (COUNTS, [SPLIT, WorkerLost(P, "x")], Phase.PLANNING, [ask(P)]),
    "prefilling, decode's worker lost": (COUNTS, [SPLIT, WorkerLost(D, "x")], Phase.PREFILLING, []),
    "prefilling, aborted": (COUNTS, [SPLIT, Aborted()], Phase.DONE, [AbortLeg(L0, P), Finished()]),
    "prefilling, planned again": (COUNTS, [SPLIT, Planned(Plan(P2, D2))], Phase.PREFILLING, []),
    "prefilling, no room": (COUNTS, [SPLIT, NoRoom()], Phase.PREFILLING, []),
    "prefilling, woken": (COUNTS, [SPLIT, Woken()], Phase.PREFILLING, []),
    "prefilling, too late": (
        COUNTS,
        [SPLIT, GivenUp(FailKind.TIMED_OUT, "late")],
        Phase.DONE,
        [AbortLeg(L0, P), Fail(FailKind.TIMED_OUT, "late"), Finished()],
    ),
    # decoding
    "decoding, several tokens and the end": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, LegOutput(L1, [8, 9], Finish.LENGTH)],
        Phase.DONE,
        [Pass.ON, Finished()],
    ),
    "decoding, error before it read": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, LegOutput(L1, [], Finish.ERROR)],
        Phase.DONE,
        [AbortLeg(L0, P), ENGINE_ERROR, Finished()],
    ),
    "decoding, refused: another one reads the same KV": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, Refused(L1, "full")],
        Phase.PLANNING,
        [ask(D, keeper=P)],
    ),
    "decoding, refused, planned": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, Refused(L1, "full"), Planned(Plan(P, D2))],
        Phase.DECODING,
        [SendLeg(L2, D2, LegKind.DECODE, handle=HANDLE, emitted=(7,))],
    ),
    "decoding, refused, planned on one worker": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, Refused(L1, "full"), Planned(Plan(P, P))],
        Phase.DECODING,
        [AbortLeg(L0, P), SendLeg(L2, P, LegKind.WHOLE, emitted=(7,))],
    ),
    "decoding, refused, planned from the start": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, Refused(L1, "full"), Planned(Plan(P2, D2))],
        Phase.PREFILLING,
        [AbortLeg(L0, P), SendLeg(L2, P2, LegKind.PREFILL, emitted=(7,))],
    ),
    "decoding, refused, the token is held": (HOLDS, [SPLIT, KEPT, SPLIT, Refused(L1, "full")], Phase.PLANNING, [ask(D, keeper=P)]),
    "decoding, lost, nothing is out": (HOLDS, [SPLIT, KEPT, SPLIT, WorkerLost(D, "x")], Phase.PLANNING, [AbortLeg(L0, P), ask(D)]),
    "decoding, lost, the KV not yet read": (COUNTS, [SPLIT, KEPT, SPLIT, WorkerLost(D, "x")], Phase.PLANNING, [AbortLeg(L0, P), ask(D)]),
    "decoding, lost": (COUNTS, [*BEGUN, WorkerLost(D, "x")], Phase.PLANNING, [ask(D)]),
    "decoding, lost, goes on behind the tokens that are out": (
        COUNTS,
        [*BEGUN, WorkerLost(D, "x"), Planned(Plan(P, D2))],
        Phase.PREFILLING,
        [SendLeg(L2, P, LegKind.PREFILL, emitted=(7, 8))],
    ),
    "decoding, lost, goes on to the end": (
        COUNTS,
        [*BEGUN, WorkerLost(D, "x"), Planned(Plan(D2, D2)), LegOutput(L2, [9], Finish.LENGTH)],
        Phase.DONE,
        [Pass.ON, Finished()],
    ),
    "decoding, lost, cannot be continued": (
        HOLDS,
        [*BEGUN, WorkerLost(D, "x")],
        Phase.DONE,
        [Fail(FailKind.LOST, "worker d was lost: x; it cannot be continued exactly: why not"), Finished()],
    ),
    "decoding, failed": (COUNTS, [*BEGUN, LegFailed(L1, "died")], Phase.PLANNING, [ask(D)]),
    "decoding, failed, cannot be continued": (
        HOLDS,
        [*BEGUN, LegFailed(L1, "died")],
        Phase.DONE,
        [Fail(FailKind.LOST, "died; it cannot be continued exactly: why not"), Finished()],
    ),
    "decoding, asked to move": (COUNTS, [*BEGUN, MoveAsked(L1, "x")], Phase.PLANNING, [AbortLeg(L1, D), ask(D)]),
    "decoding, asked to move, cannot be continued: it stays": (HOLDS, [*BEGUN, MoveAsked(L1, "x")], Phase.DECODING, []),
    "decoding, the keeper lost before the KV was surely read": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, WorkerLost(P, "x")],
        Phase.PLANNING,
        [AbortLeg(L1, D), ask(P)],
    ),
    "decoding, the keeper lost afterwards": (COUNTS, [*BEGUN, WorkerLost(P, "x")], Phase.DECODING, []),
    "decoding, aborted before it read": (
        COUNTS,
        [SPLIT, KEPT, SPLIT, Aborted()],
        Phase.DONE,
        [AbortLeg(L1, D), AbortLeg(L0, P), Finished()],
    ),
    "decoding, aborted after it read": (COUNTS, [*BEGUN, Aborted()], Phase.DONE, [AbortLeg(L1, D), Finished()]),
    "whole, token": (WHOLE, [Planned(Plan(P, P)), LegOutput(L0, [7])], Phase.DECODING, [Pass.ON]),
    "whole, the end": (WHOLE, [Planned(Plan(P, P)), LegOutput(L0, [7], Finish.STOP)], Phase.DONE, [Pass.ON, Finished()]),
    "whole, lost before a token": (WHOLE, [Planned(Plan(P, P)), WorkerLost(P, "x")], Phase.PLANNING, [ask(P)]),
    "whole, lost": (ONE, [Planned(Plan(P, P)), LegOutput(L0, [7]), WorkerLost(P, "x")], Phase.PLANNING, [ask(P)]),
    # what comes too late
    "an old leg's output": (COUNTS, [SPLIT, Refused(L0, "full"), Planned(Plan(P2, D)), KEPT], Phase.PREFILLING, []),
    "an old leg's failure": (COUNTS, [SPLIT, KEPT, SPLIT, LegFailed(L0, "died")], Phase.DECODING, []),
    "an old leg's refusal": (COUNTS, [SPLIT, KEPT, SPLIT, Refused(L0, "full")], Phase.DECODING, []),
    "an old leg's wish to move": (COUNTS, [SPLIT, KEPT, SPLIT, MoveAsked(L0, "x")], Phase.DECODING, []),
    "a stranger's leg": (COUNTS, [SPLIT, LegOutput(LegId("other:0"), [1])], Phase.PREFILLING, []),
}


@pytest.mark.parametrize(("how", "events", "phase", "said"), TABLE.values(), ids=TABLE.keys())
def test_arrows(how: Traits, events: list[Event], phase: Phase, said: list[Instruction]) -> None:
    """What the last event makes of the request, and what is to be done about it."""
    flow, answer = after(how, *events)
    assert (flow.phase, answer) == (phase, said)


AFTER_DONE: list[Event] = [
    SPLIT,
    NoRoom(),
    Woken(),
    KEPT,
    LegOutput(L1, [1]),
    Refused(L0, ""),
    MoveAsked(L0, ""),
    LegFailed(L0, ""),
    WorkerLost(P, ""),
    WorkerBack(P),
    GivenUp(FailKind.LOST, ""),
    Aborted(),
]


def test_every_event_is_in_the_list() -> None:
    """So that the two tests over all events leave none out."""
    assert {type(event) for event in AFTER_DONE} == set(Event.__args__)


@pytest.mark.parametrize("event", AFTER_DONE, ids=lambda event: type(event).__name__)
def test_nothing_happens_after_done(event: Event) -> None:
    """Whatever arrives late."""
    flow, _ = after(COUNTS, SPLIT, Aborted())
    assert (flow.handle(event), flow.phase, flow.legs) == ([], Phase.DONE, {})


def test_excluded_workers_add_up_until_it_waited() -> None:
    """Everyone who refused or was lost stays excluded until the request is woken, and leg ids are never used twice."""
    events: list[Event] = [
        SPLIT,
        Refused(L0, ""),
        Planned(Plan(P2, D)),
        LegOutput(L1, [1], Finish.LENGTH, handle_of(L1, P2)),
        Planned(Plan(P2, D)),
        WorkerLost(D, "x"),
    ]
    assert after(HOLDS, *events)[1] == [AbortLeg(L1, P2), ask(P, D)]
    assert after(HOLDS, *events, NoRoom(), Woken())[1] == [ask()]


def test_refusals_are_no_losses() -> None:
    """A request may be refused by any number of workers, and moved as often."""
    flow, _ = after(COUNTS)
    for number in range(20):
        flow.handle(Planned(Plan(P, D)))
        said = flow.handle(Refused(leg_id(R, number), "full") if number % 2 else MoveAsked(leg_id(R, number), "x"))
        assert said[-1] == ask(P)
    assert flow.losses == 0


def test_what_nobody_has_is_given_up() -> None:
    """After as many workers as may end under it, the newest reason is told, with how many said so; being refused for want of room between
    does not count. Who said it twice is one."""
    flow, _ = after(COUNTS, SPLIT, Refused(L0, "not here", unable=True), Planned(Plan(P2, D)), Refused(L1, "full", busy=True))
    flow.handle(Planned(Plan(P2, D)))
    assert flow.handle(Refused(L2, "torn", unable=True)) == [ask(P, P2)]
    assert flow.why_unable == "torn; 2 workers were asked"
    flow.handle(Planned(Plan(D, D)))
    said = flow.handle(Refused(L3, "nor here", unable=True))
    assert said == [Fail(FailKind.ABSENT, "nor here; 3 workers were asked"), Finished()]
    once = Flow(R, COUNTS, Retry(max_losses=1))
    once.start()
    once.handle(SPLIT)
    assert once.handle(Refused(L0, "not here", unable=True)) == [Fail(FailKind.ABSENT, "not here"), Finished()]


def test_a_request_that_ends_engines_is_given_up() -> None:
    """At once after the first, after growing pauses then; the third is the last. Nothing is left behind."""
    flow, _ = after(COUNTS, SPLIT, LegFailed(L0, "died"))
    flow.handle(Planned(Plan(P2, D)))
    assert flow.handle(WorkerLost(P2, "gone")) == [Pause(0.1)]
    assert flow.phase is Phase.WAITING
    assert flow.handle(Woken()) == [ask()]
    flow.handle(Planned(Plan(D2, D2)))
    said = flow.handle(LegFailed(L2, "died too"))
    assert said == [Fail(FailKind.LOST, "died too; given up after 3 engines ended under it"), Finished()]
    assert flow.legs == {}


def test_a_worker_that_comes_back_was_no_loss() -> None:
    """A connection that breaks again and again ends no request; an engine that said it has failed stays a loss."""
    flow, _ = after(COUNTS)
    for number in range(9):
        flow.handle(Planned(Plan(D, D)))
        flow.handle(WorkerLost(D, "the connection broke"))
        assert flow.losses == 1
        flow.handle(WorkerBack(D))
        flow.handle(WorkerBack(D))
        assert (flow.losses, flow.losses_ever) == (0, number + 1)
    flow.handle(Planned(Plan(D, D)))
    flow.handle(LegFailed(leg_id(R, 9), "died"))
    flow.handle(WorkerBack(D))
    assert flow.losses == 1


def test_going_on_makes_up_for_losses() -> None:
    """Sixteen tokens clear a suspect, many more make all forgotten: a long answer may outlive any number of engines."""
    flow, _ = after(COUNTS, SPLIT, LegFailed(L0, "died"), Planned(Plan(P2, D)), WorkerLost(P2, "gone"), Woken(), Planned(Plan(D, D)))
    assert (flow.losses, flow.is_suspect) == (2, True)
    flow.handle(LegOutput(L2, [1] * 15))
    assert flow.is_suspect
    flow.handle(LegOutput(L2, [1]))
    assert (flow.losses, flow.is_suspect) == (1, False)
    flow.handle(LegOutput(L2, [1] * 240))
    assert (flow.losses, flow.losses_ever) == (0, 2)


@pytest.mark.parametrize(("most", "suspects"), [(1, []), (2, [1]), (3, [2]), (5, [4])])
def test_suspects_have_one_loss_left(most: int, suspects: list[int]) -> None:
    """With a budget of one there is none: the first loss is the last."""
    assert [losses for losses in range(most) if Retry(most).is_suspect(losses)] == suspects


def test_pauses_grow_and_differ() -> None:
    """None after the first loss; then doubled each time, between half and one and a half times."""
    assert [Retry(9, 0.1, lambda: 0.5).pause_s(losses) for losses in (1, 2, 3, 4)] == [0.0, 0.1, 0.2, 0.4]
    assert Retry(9, 0.1, lambda: 0.0).pause_s(2) == 0.05
    assert Retry(9, 0.1, lambda: 1.0).pause_s(2) == pytest.approx(0.15)


def test_legs_are_what_the_request_holds() -> None:
    """Running legs and kept KV; tokens from decode prove that it was read."""
    for events, held in (
        ([SPLIT], {L0: P}),
        ([SPLIT, KEPT], {L0: P}),
        ([SPLIT, KEPT, SPLIT], {L0: P, L1: D}),
        ([SPLIT, NOT_KEPT], {L1: D}),
        ([SPLIT, KEPT, SPLIT, LegOutput(L1, [8])], {L1: D}),
        ([SPLIT, KEPT, SPLIT, LegOutput(L1, [8], Finish.STOP)], {}),
    ):
        assert after(COUNTS, *events)[0].legs == held


# -- any order of events -------------------------------------------------------------------------------------------------------

WORKERS = [P, P2, D, D2]


@dataclass
class Leg:
    """A leg as its worker sees it."""

    worker: WorkerId
    kind: LegKind
    next_token: int
    running: bool = True
    keeps: bool = False
    """KV is kept for a reader."""
    reads: LegId | None = None


@dataclass
class Cluster:
    """The workers' side of one request, and the client's."""

    legs: dict[LegId, Leg] = field(default_factory=dict)
    client: list[int] = field(default_factory=list)
    asked: bool = False
    sleeps: bool = False
    asks: int = 0
    fails: int = 0
    finished: int = 0

    def carry_out(self, said: list[Instruction], tokens: list[int]) -> None:
        for number, instruction in enumerate(said):
            assert not self.finished, "nothing follows Finished"
            if isinstance(instruction, Pass):
                assert number == 0
                if instruction is not Pass.HOLD:
                    self.client += tokens
            elif isinstance(instruction, AskPlan | AskDecode):
                order = instruction.order if isinstance(instruction, AskDecode) else instruction
                self.asks += 1
                self.asked = True
                kept = {leg.worker for leg in self.legs.values() if leg.keeps}
                assert kept == ({order.keeper} if order.keeper is not None else set())
            elif isinstance(instruction, Wait | Pause):
                self.sleeps = True
            elif isinstance(instruction, SendLeg):
                assert instruction.leg not in self.legs
                assert not any(leg.running for leg in self.legs.values()), "one leg at a time"
                assert list(instruction.emitted) == self.client, "every leg goes on behind what the client has"
                if instruction.handle is not None:
                    assert self.legs[instruction.handle.leg].keeps
                reads = instruction.handle.leg if instruction.handle is not None else None
                self.legs[instruction.leg] = Leg(instruction.worker, instruction.kind, len(self.client), reads=reads)
            elif isinstance(instruction, AbortLeg):
                leg = self.legs[instruction.leg]
                assert instruction.worker == leg.worker
                assert leg.running or leg.keeps, "nothing to abort"
                leg.running = leg.keeps = False
            elif isinstance(instruction, Fail):
                self.fails += 1
            elif isinstance(instruction, Finished):
                self.finished += 1


class AnyOrder(RuleBasedStateMachine):
    """Events in any order, stale ones included, from workers that behave."""

    @initialize(how=st.sampled_from([COUNTS, HOLDS, WHOLE, ONE]))
    def begin(self, how: Traits) -> None:
        self.flow = Flow(R, how, RETRY)
        self.cluster = Cluster()
        self.cluster.carry_out(self.flow.start(), [])

    def feed(self, event: Event, tokens: list[int] | None = None) -> None:
        self.cluster.carry_out(self.flow.handle(event), tokens or [])

    def pick(self, index: int) -> tuple[LegId, Leg] | None:
        legs = list(self.cluster.legs.items())
        return legs[index % len(legs)] if legs else None

    @precondition(lambda self: self.cluster.asked)
    @rule(prefill=st.sampled_from(WORKERS), decode=st.sampled_from(WORKERS))
    def planned(self, prefill: WorkerId, decode: WorkerId) -> None:
        self.cluster.asked = False
        self.feed(Planned(Plan(prefill, decode)))

    @precondition(lambda self: self.cluster.asked and self.flow.kept is not None)
    @rule(decode=st.sampled_from(WORKERS))
    def planned_for_the_kept_prompt(self, decode: WorkerId) -> None:
        self.cluster.asked = False
        assert self.flow.kept is not None
        self.feed(Planned(Plan(self.flow.kept.worker, decode)))

    @precondition(lambda self: self.cluster.asked)
    @rule()
    def no_room(self) -> None:
        self.cluster.asked = False
        self.feed(NoRoom())

    @precondition(lambda self: self.cluster.sleeps)
    @rule(alive=st.booleans())
    def woken(self, alive: bool) -> None:
        self.cluster.sleeps = False
        self.feed(Woken(alive))

    @precondition(lambda self: self.cluster.sleeps and self.cluster.asks > 3)
    @rule()
    def given_up(self) -> None:
        self.cluster.sleeps = False
        self.feed(GivenUp(FailKind.OVERLOADED, "late"))

    @precondition(lambda self: self.cluster.legs)
    @rule(index=st.integers(0, 50), count=st.integers(1, 3), finish=st.sampled_from([None, None, None, *Finish]), keep=st.booleans())
    def output(self, index: int, count: int, finish: Finish | None, keep: bool) -> None:
        """A leg's next output; a prefill leg has one only, a leg that ended (a late message) changes nothing."""
        name, leg = self.pick(index) or (L0, Leg(P, LegKind.WHOLE, 0))
        first = leg.next_token
        if leg.kind is LegKind.PREFILL:
            count, finish = 1, finish or Finish.LENGTH
        if finish is Finish.ERROR:
            count = 0
        counted = leg.kind is not LegKind.PREFILL or self.flow.traits.continuable
        tokens = list(range(first, first + count)) if counted else [-1] * count
        handle = None
        was_running = leg.running
        if was_running:
            leg.next_token += count
            if finish is not None:
                leg.running = False
            if leg.kind is LegKind.PREFILL and keep and finish is not Finish.ERROR:
                leg.keeps, handle = True, handle_of(name, leg.worker)
            if count and leg.reads is not None:
                self.cluster.legs[leg.reads].keeps = False
        before = (list(self.cluster.client), len(self.cluster.legs), self.cluster.finished)
        self.feed(LegOutput(name, tokens, finish, handle), tokens)
        if not was_running:
            assert before == (self.cluster.client, len(self.cluster.legs), self.cluster.finished)

    @precondition(lambda self: self.cluster.legs)
    @rule(index=st.integers(0, 50), unable=st.booleans())
    def refused(self, index: int, unable: bool) -> None:
        """Only what has said nothing yet is refused; or it comes late."""
        name, leg = self.pick(index) or (L0, Leg(P, LegKind.WHOLE, 0))
        if leg.running and leg.next_token != len(self.cluster.client):
            return
        leg.running = False
        self.feed(Refused(name, "full", unable=unable))

    @precondition(lambda self: self.cluster.legs)
    @rule(index=st.integers(0, 50))
    def failed(self, index: int) -> None:
        name, leg = self.pick(index) or (L0, Leg(P, LegKind.WHOLE, 0))
        leg.running = False
        self.feed(LegFailed(name, "died"))

    @precondition(lambda self: self.cluster.legs)
    @rule(index=st.integers(0, 50))
    def asked_to_move(self, index: int) -> None:
        """It runs on until it is aborted."""
        name, _ = self.pick(index) or (L0, Leg(P, LegKind.WHOLE, 0))
        self.feed(MoveAsked(name, "draining"))

    @rule(worker=st.sampled_from(WORKERS))
    def lost(self, worker: WorkerId) -> None:
        for leg in self.cluster.legs.values():
            if leg.worker == worker:
                leg.running = leg.keeps = False
        self.feed(WorkerLost(worker, "gone"))

    @rule(worker=st.sampled_from(WORKERS))
    def back(self, worker: WorkerId) -> None:
        self.feed(WorkerBack(worker))

    @precondition(lambda self: self.cluster.asks > 2 or len(self.cluster.client) > 2)
    @rule()
    def aborted(self) -> None:
        self.cluster.asked = self.cluster.sleeps = False
        self.feed(Aborted())

    @invariant()
    def the_rules_hold(self) -> None:
        flow, cluster = self.flow, self.cluster
        running = {name: leg.worker for name, leg in cluster.legs.items() if leg.running}
        kept = {name: leg.worker for name, leg in cluster.legs.items() if leg.keeps}
        assert flow.legs == running | kept, "the flow knows what it holds, no more and no less"
        assert cluster.finished == (1 if flow.phase is Phase.DONE else 0), "done once"
        assert cluster.fails <= cluster.finished, "an error is the end"
        assert flow.losses <= RETRY.max_losses
        assert cluster.client == list(range(len(cluster.client))) == flow.emitted, "each token once, in order"
        if flow.phase is Phase.DONE:
            assert not running
            assert not kept
        elif flow.phase is Phase.PLANNING:
            assert cluster.asked
            assert not running
        elif flow.phase is Phase.WAITING:
            assert cluster.sleeps, "somebody will wake it"
            assert not running
        else:
            assert len(running) == 1, "somebody works on it"

    def teardown(self) -> None:
        if not hasattr(self, "flow"):
            return
        self.feed(Aborted())
        self.the_rules_hold()
        assert self.flow.phase is Phase.DONE


AnyOrder.TestCase.settings = settings(max_examples=300, stateful_step_count=25, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_every_pair_of_events_from_every_phase() -> None:
    """No order of two events, however odd, raises or reopens a request."""
    reached: list[list[Event]] = [
        [],
        [SPLIT],
        [SPLIT, KEPT],
        [SPLIT, KEPT, SPLIT],
        [SPLIT, KEPT, SPLIT, LegOutput(L1, [8])],
        [SPLIT, Aborted()],
        [NoRoom()],
        [SPLIT, KEPT, SPLIT, Refused(L1, "")],
    ]
    events: list[Event] = [*AFTER_DONE, WorkerLost(D, ""), LegOutput(L1, [2], Finish.STOP), LegFailed(L1, ""), Refused(L1, "")]
    for how, begun in itertools.product((COUNTS, HOLDS, WHOLE, ONE), reached):
        for pair in itertools.product(events, repeat=2):
            flow, _ = after(how, *begun)
            was_done = flow.phase is Phase.DONE
            said = [instruction for event in pair for instruction in flow.handle(event)]
            assert said.count(Finished()) == int(flow.phase is Phase.DONE and not was_done)
