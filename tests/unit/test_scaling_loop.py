"""The autoscaler's loop in the controller: what it is told of workers, what it does with a plan, what it keeps, and what it survives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from autoscaler.base import Scaler
from autoscaler.memory import BatonState
from autoscaler.plan import Add, Drain, Plan, PoolReport, Relabel, Wake
from autoscaler.scaler import BatonScaler
from autoscaler.signals import Arrived, Phase, PoolSignals, Reading, Signals, TrafficSignals, WorkerSignal
from cluster import membership
from cluster.lifecycle import WorkerRecord
from cluster.scaling import Scaling
from cluster.scaling_actions import KEPT_ACTIONS, Asked
from cluster.scaling_memory import ScalingMemory
from cluster.signals.base import SignalsMissingError, SignalSource
from cluster.signals.direct import DirectSource
from cluster.signals.workers import worker_signals
from cluster.spec import WorkerReport
from core.errors import WorkerUnfitError
from core.ids import Epoch, RouterId, WorkerId
from core.metrics.tally import Reading as TallyReading
from core.metrics.tally import Sum
from core.worker import Role, WorkerCard, WorkerLoad, WorkerState
from tests.support.counting_router import CountingRouter
from tests.support.eventually import assert_eventually
from tests.support.scaling import FACTS, STEP, limits, paper, policy, traffic

P, D = Role.PREFILL, Role.DECODE
ONE_EACH = {P: 1, D: 1}


def record(name: str, role: Role, state: WorkerState = WorkerState.READY, created_s: float = 0.0, **changes: Any) -> WorkerRecord:
    card = WorkerCard(WorkerId(name), Epoch(1), role, state, "tcp://h:1", "k", FACTS) if state is not WorkerState.STARTING else None
    return replace(
        WorkerRecord(WorkerId(name), role, Epoch(1), "today", created_s, state, card=card, ready_after_s=30.0 if card else None), **changes
    )


def told(records: Sequence[WorkerRecord], wanted: dict[Role, int], **reports: WorkerReport) -> dict[str, WorkerSignal]:
    of = {WorkerId(name): report for name, report in reports.items()}
    seen = worker_signals(records, of, wanted, lambda each: each.spec_hash != "today", {WorkerId("found")}, 100.0)
    assert len({signal.worker for signal in seen}) == len(seen)
    return {signal.worker: signal for signal in seen}


# -- workers -----------------------------------------------------------------------------------------------------------------


def test_what_is_told_of_a_worker() -> None:
    """Its role, age, load, start and facts; warm once it has measured its steps itself."""
    report = WorkerReport("ready", load=WorkerLoad(running=3, waiting=2, step=STEP), measured=STEP)
    cold = WorkerReport("ready", load=WorkerLoad(step=STEP))
    seen = told([record("p", P, created_s=40.0), record("found", D)], ONE_EACH, p=report, found=cold)
    assert seen["p"] == WorkerSignal(WorkerId("p"), P, Phase.READY, 60.0, FACTS, STEP, True, 30.0, 5)
    assert (seen["found"].warm, seen["found"].step, seen["found"].start_up_s) == (False, None, None)


def test_who_is_of_an_older_configuration_is_told() -> None:
    """It serves still, or leaves; but nobody will give it another role."""
    seen = told([record("old", P, spec_hash="yesterday"), record("p", P), record("d", D)], {P: 1, D: 1})
    assert {name: (signal.phase, signal.outgoing) for name, signal in seen.items()} == {
        "old": (Phase.DRAINING, True),
        "p": (Phase.READY, False),
        "d": (Phase.READY, False),
    }


def test_who_is_too_many_is_told_as_who_will_go() -> None:
    """The scaler hears the same as reconciling does: whoever does not serve yet, then the oldest."""
    here = [record("old", D), record("new", D, created_s=1.0), record("coming", D, WorkerState.STARTING, created_s=2.0)]
    for count, staying in ((2, {"old", "new"}), (1, {"new"})):
        seen = told(here, {P: 0, D: count})
        assert {name for name, signal in seen.items() if signal.phase is not Phase.DRAINING} == staying
        leaving = [membership.Drain(WorkerId(name)) for name in ("coming", "old") if name not in staying]
        assert membership.reconcile(here, {P: 0, D: count}, {P: "today", D: "today"}, 3.0) == leaving


@pytest.mark.parametrize("state", WorkerState)
def test_phases(state: WorkerState) -> None:
    """Each state is a phase; those that are gone are left out."""
    seen = told([record("w", P, state)], {P: int(state in (WorkerState.STARTING, WorkerState.READY)), D: 0})
    assert {signal.phase for signal in seen.values()} == (set() if state is WorkerState.GONE else {Phase(state.value)})


def test_those_to_be_created_are_starting() -> None:
    """Asked for, in back-off, or dead and to be replaced: as many as are missing, or the next plan would ask for them again."""
    seen = told([record("p", P), record("dead", D, WorkerState.GONE)], {P: 3, D: 1})
    assert sorted((signal.role, signal.phase) for signal in seen.values()) == [
        (D, Phase.STARTING),
        (P, Phase.READY),
        (P, Phase.STARTING),
        (P, Phase.STARTING),
    ]


def test_those_beyond_the_number_are_leaving() -> None:
    """During a replacement there are more for a while: the outgoing ones are on their way, and the others are as many as wanted."""
    old = record("old", P, created_s=90.0, spec_hash="yesterday")
    seen = told([old, record("new", P, created_s=50.0), record("newest", P, created_s=70.0)], {P: 1, D: 0})
    assert {name: signal.phase for name, signal in seen.items()} == {
        "newest": Phase.READY,
        "new": Phase.DRAINING,
        "old": Phase.DRAINING,
    }


# -- a round -----------------------------------------------------------------------------------------------------------------


class Source(SignalSource):
    """Says what it is told to say, or raises it."""

    def __init__(self) -> None:
        self.says: Signals | Exception = Signals(TrafficSignals(Reading(3.0, 0.5)))
        self.closed = False

    async def read(self) -> Signals:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    async def close(self) -> None:
        self.closed = True


@dataclass
class Told:
    """Pools that write down what is asked of them, and can refuse it."""

    done: list[Any] = field(default_factory=list)
    unfit: set[str] = field(default_factory=set)
    here: tuple[WorkerSignal, ...] = ()

    def workers(self) -> tuple[WorkerSignal, ...]:
        return self.here

    async def relabel(self, worker: WorkerId, role: Role) -> None:
        if worker in self.unfit:
            raise WorkerUnfitError(worker, "change", "it is draining")
        self.done.append(("relabel", worker, role))

    async def wake(self, worker: WorkerId, role: Role) -> None:
        self.done.append(("wake", worker, role))

    async def sleep(self, worker: WorkerId) -> None:
        self.done.append(("sleep", worker))

    async def drain(self, worker: WorkerId, role: Role) -> None:
        self.done.append(("drain", worker, role))

    async def add(self, role: Role, count: int) -> None:
        self.done.append(("add", role, count))


class Dictated(Scaler[BatonState]):
    """Plans what it is told to, one after the other, and the last again; remembers how often it was asked."""

    name = "baton"

    def __init__(self, *plans: Plan | Exception) -> None:
        self._plans = list(plans)

    def first(self) -> BatonState:
        return BatonState()

    def plan(self, signals: Signals, state: BatonState, now_s: float) -> tuple[Plan, BatonState]:
        plan = self._plans.pop(0) if len(self._plans) > 1 else self._plans[0]
        if isinstance(plan, Exception):
            raise plan
        return plan, msgspec.structs.replace(state, busy_s=(state.busy_s or 0.0) + 1)


W = [WorkerId(f"w{number}") for number in range(5)]
ALL = (Relabel(W[0], D), Wake(W[1], P), Add(P, 2), Drain(W[2], D), Drain(W[3], D, then_sleep=True))


@dataclass
class Rig:
    scaling: Scaling
    pools: Told
    source: Source
    kept: list[bytes]

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        readings: list[TallyReading] = list(self.scaling.tally.readings())
        [found] = [reading for reading in readings if reading.entry.name == f"baton_scaling_{name}"]
        return {labels: cell.value for labels, cell in found.cells.items() if isinstance(cell, Sum) and cell.value}


def rig(
    *plans: Plan | Exception,
    dry_run: bool = False,
    kept: bytes | None = None,
    scaler: Scaler[Any] | None = None,
    routers: SignalSource | None = None,
) -> Rig:
    pools, source, keeps = Told(), Source(), list[bytes]()
    scaling = Scaling(scaler or Dictated(*plans), source, pools, 0.01, dry_run, keeps.append, kept, clock=lambda: 1000.0, routers=routers)
    return Rig(scaling, pools, source, keeps)


def plan(*actions: Any, **changes: Any) -> Plan:
    return msgspec.structs.replace(Plan(1000.0, "baton", (PoolReport(P, 1, 0, 1), PoolReport(D, 2, 0, 2)), actions), **changes)


async def test_a_plan_is_carried_out() -> None:
    """Each kind of action by its own way; counted, and told with what it was made from."""
    made = rig(plan(*ALL))
    await made.scaling.step()
    assert made.pools.done == [("relabel", W[0], D), ("wake", W[1], P), ("add", P, 2), ("drain", W[2], D), ("sleep", W[3])]
    assert made.counted("actions_total") == {
        ("relabel", "decode"): 1,
        ("wake", "prefill"): 1,
        ("add", "prefill"): 2,
        ("drain", "decode"): 1,
        ("sleep", "decode"): 1,
    }
    [turn] = made.scaling.newest(5)
    shown = turn.as_dict()
    assert shown["inputs"] == {"arrivals_per_s": {"value": 3.0, "age_s": 0.5}}
    assert shown["text"] == turn.plan.text
    assert [action["type"] for action in shown["actions"]] == ["Relabel", "Wake", "Add", "Drain", "Drain"]


async def test_what_was_done_is_remembered_beside_the_plans() -> None:
    """In words, with its time, the newest first, after any number of plans that ask for nothing; a dozen of it at the most."""
    made = rig(*(plan(Add(P, n + 1), at_s=float(n)) for n in range(KEPT_ACTIONS)), plan(Drain(W[0], D, then_sleep=True)), plan())
    for _ in range(KEPT_ACTIONS + 30):
        await made.scaling.step()
    asked = made.scaling.actions.newest()
    assert asked[0] == Asked(1000.0, f"drain {W[0]} of decode, then let it sleep", False)
    assert [(one.at_s, one.text) for one in asked[1:]] == [(n, f"add {n + 1} to prefill") for n in range(KEPT_ACTIONS - 1, 0, -1)]


async def test_a_dry_run_recommends_the_same_once() -> None:
    """Nobody does it, so that every plan asks for it again. Once it was not asked for, it is new."""
    made = rig(plan(Add(P, 1)), plan(Add(P, 1)), plan(Add(P, 1), Add(D, 2)), plan(), plan(Add(P, 1)), dry_run=True)
    for _ in range(5):
        await made.scaling.step()
    assert [one.text for one in made.scaling.actions.newest()] == ["add 1 to prefill", "add 2 to decode", "add 1 to prefill"]
    assert all(one.dry_run for one in made.scaling.actions.newest())


async def test_only_what_keeps_a_pool_small_is_told_as_clamped() -> None:
    """A minimum, or a window that changes nothing, is written with the plan, and is no reason to raise `max` or the budget."""
    pools = (PoolReport(P, 1, 0, 1, clamps=("at least 1",)), PoolReport(D, 2, 0, 2, clamps=("at most 2",), limited=True))
    made = rig(plan(pools=pools))
    await made.scaling.step()
    assert made.counted("clamped") == {("decode",): 1}


async def test_what_cannot_be_done_does_not_stop_the_rest() -> None:
    """It is counted; the next plan is made from how things are then."""
    made = rig(plan(Relabel(W[0], D), Relabel(W[1], D), Add(P, 1)))
    made.pools.unfit = {W[0]}
    await made.scaling.step()
    assert made.pools.done == [("relabel", W[1], D), ("add", P, 1)]
    assert made.counted("failed_actions_total") == {("relabel",): 1}


async def test_a_worker_that_does_not_answer_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is planned is done meanwhile, the next plan is made, and its move goes on; at the end nobody waits for it."""
    monkeypatch.setattr("cluster.scaling._MOVES_WAIT_S", 0.0)
    made = rig(plan(Relabel(W[0], D), Add(P, 1)), plan(Add(P, 2)))
    answers = asyncio.Event()
    relabel = made.pools.relabel

    async def slow(worker: WorkerId, role: Role) -> None:
        await answers.wait()
        await relabel(worker, role)

    monkeypatch.setattr(made.pools, "relabel", slow)
    await made.scaling.step()
    await made.scaling.step()
    assert made.pools.done == [("add", P, 1), ("add", P, 2)]
    answers.set()
    await assert_eventually(lambda: ("relabel", W[0], D) in made.pools.done, 10.0, "it was relabelled after all")


async def test_a_dry_run_only_recommends() -> None:
    """Also where the scaler itself knows nothing of it: the plan says so, and nothing is done."""
    made = rig(plan(*ALL), dry_run=True)
    await made.scaling.step()
    assert made.pools.done == []
    assert made.scaling.newest(1)[0].plan.text.splitlines()[-1].startswith("would do: relabel w0")


async def test_without_numbers_it_holds_and_says_who_is_silent() -> None:
    """Baton's scaler keeps what there is; the plan and the metrics say why."""
    made = rig(scaler=BatonScaler(limits(), policy()))
    made.pools.here = tuple(paper(BatonScaler(limits(), policy()), 2, 3).workers.values())
    made.source.says = SignalsMissingError("Prometheus does not answer: refused")
    await made.scaling.step()
    [turn] = made.scaling.newest(1)
    assert turn.plan.held == "Prometheus does not answer: refused"
    assert (turn.plan.target(P), turn.plan.target(D), turn.plan.actions) == (2, 3, ())
    assert made.counted("held") == {(): 1}
    made.source.says = Signals(traffic(0.0))
    await made.scaling.step()
    assert made.scaling.newest(1)[0].plan.held.startswith("waiting prompt tokens: nobody says how many")


class Routers(DirectSource):
    """One router, asked directly; counts how often, and is silent where its ``said`` is an error."""

    def __init__(self) -> None:
        self.said = CountingRouter()
        self.asked = 0
        self.is_away = self.closed = False
        super().__init__(lambda: {RouterId("r"): "r:1"}, 60.0, self._answer)

    async def _answer(self, address: str) -> str:
        self.asked += 1
        if self.is_away:
            raise TimeoutError("timed out")
        return self.said.exposition

    async def close(self) -> None:
        self.closed = True


def at_nothing() -> tuple[Rig, Routers]:
    """Scaled to zero, with a Prometheus that is away."""
    routers = Routers()
    made = rig(scaler=BatonScaler(limits(least=0), policy()), routers=routers)
    made.source.says = SignalsMissingError("Prometheus does not answer: refused")
    return made, routers


async def test_somebody_who_waits_at_nothing_is_seen_without_prometheus() -> None:
    """Routers hold a request for workers that are started on demand, and say so themselves. One of each role is started, once; nothing else
    that routers say is acted on, and nothing at all while each role has somebody."""
    made, routers = at_nothing()
    await made.scaling.step()
    assert (made.pools.done, routers.asked) == ([], 1)
    routers.said.waiting_tokens = 1_000_000
    routers.said.serve(10_000)
    await made.scaling.step()
    assert made.pools.done == [("add", P, 1), ("add", D, 1)]
    [turn] = made.scaling.newest(1)
    assert turn.plan.held == "Prometheus does not answer: refused"
    assert turn.as_dict()["inputs"].keys() == {"waiting_tokens", "waited_s"}
    made.pools.here = (WorkerSignal(W[0], P, Phase.STARTING), WorkerSignal(W[1], D, Phase.STARTING))
    await made.scaling.step()
    assert len(made.pools.done) == 2
    assert made.scaling.newest(1)[0].as_dict()["inputs"] == {}


async def test_what_has_just_come_is_heard_from_routers() -> None:
    """Of the last seconds Prometheus knows too little: routers are asked as well, and are not needed for it. All else is Prometheus's."""
    routers = Source()
    made = rig(plan(), plan(), routers=routers)
    made.source.says = Signals(TrafficSignals(Reading(3.0, 4.0), Reading(2.0, 4.0), Reading(100.0, 4.0)))
    came = (Arrived(1.0, 50.0, 9_000.0),)
    routers.says = Signals(TrafficSignals(Reading(9.0), Reading(50.0), Reading(180.0), latest=came), PoolSignals(Reading(7.0)))
    await made.scaling.step()
    routers.says = SignalsMissingError("r cannot be scraped")
    await made.scaling.step()
    without, with_routers = (turn.signals for turn in made.scaling.newest(2))
    assert with_routers == Signals(TrafficSignals(Reading(3.0, 4.0), Reading(50.0), Reading(100.0, 4.0), latest=came))
    assert without == made.source.says
    assert [turn.plan.held for turn in made.scaling.newest(2)] == ["", ""]


async def test_nobody_says_whether_somebody_waits() -> None:
    """Prometheus and a router are silent: both are named, nobody is started, and at the end both sources are closed."""
    made, routers = at_nothing()
    routers.said.waiting_tokens, routers.is_away = 400, True
    await made.scaling.step()
    assert made.scaling.newest(1)[0].plan.held == "Prometheus does not answer: refused; r cannot be scraped at r:1: timed out"
    assert made.pools.done == []
    task = asyncio.create_task(made.scaling.run())
    await assert_eventually(lambda: routers.asked > 2, 10.0, "it goes on asking")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert made.source.closed
    assert routers.closed


async def test_plans_are_kept_the_newest_first() -> None:
    """So many as are asked for, as far as there are."""
    made = rig(plan(Add(P, 1)), plan())
    await made.scaling.step()
    await made.scaling.step()
    assert [len(turn.plan.actions) for turn in made.scaling.newest(9)] == [0, 1]
    assert len(made.scaling.newest(1)) == 1
    assert made.scaling.newest(0) == made.scaling.newest(-3) == []


async def test_the_log_says_what_is_new(caplog: pytest.LogCaptureFixture) -> None:
    """Other numbers of tokens and seconds are no news; other targets, reasons and actions are."""
    held = [plan(held=f"arrivals: last heard {seconds} s ago") for seconds in (31, 33, 35)]
    made = rig(*held, plan(), plan(Add(P, 1)), plan())
    with caplog.at_level(logging.INFO, "cluster.scaling"):
        for _ in range(6):
            await made.scaling.step()
    assert [line.message.splitlines()[-1] for line in caplog.records] == [
        "scaling: do: nothing",
        "scaling: do: nothing",
        "scaling: do: add 1 to prefill",
        "scaling: do: nothing",
    ]


async def test_a_round_that_raises_is_counted_and_the_loop_goes_on() -> None:
    """Whatever it was; and the source is closed at the end."""
    made = rig(RuntimeError("on purpose"), RuntimeError("again"), plan(Add(D, 1)))
    task = asyncio.create_task(made.scaling.run())
    await assert_eventually(lambda: bool(made.pools.done), 10.0, "a plan was made after all")
    assert made.counted("failed_rounds_total") == {(): 2}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert made.source.closed


# -- memory ------------------------------------------------------------------------------------------------------------------


async def test_what_is_done_is_written_down_at_once() -> None:
    """And what was seen every ten seconds."""
    made = rig(plan(), plan(), plan(Add(P, 1)), plan())
    for kept in (1, 1, 2, 2):
        await made.scaling.step()
        assert len(made.kept) == kept
    again = rig(plan(Add(P, 1)), kept=made.kept[-1])
    await again.scaling.step()
    assert msgspec.json.decode(again.kept[-1])["state"]["busy_s"] == 4.0  # three rounds before, one after


async def test_what_a_start_took_is_written_down_at_once() -> None:
    """No other controller sees that worker start."""
    starts = [plan(pools=(PoolReport(P, 1, 0, 1, horizon_s=took_s),)) for took_s in (120.0, 120.0, 21.5, 21.5)]
    made = rig(*starts)
    for kept in (1, 1, 2, 2):
        await made.scaling.step()
        assert len(made.kept) == kept


def test_a_state_survives_being_written() -> None:
    """All of it, after an hour of traffic."""
    run = paper(BatonScaler(limits(), policy()), 2, 3)
    for number in range(120):
        run.tick(traffic(1.0 + number % 7), 30.0, queue=number % 3 * 1000.0)
    memory: ScalingMemory[BatonState] = ScalingMemory(BatonScaler(limits(), policy()))
    assert isinstance(run.state, BatonState)
    assert memory.read(memory.written(run.state)) == run.state


@pytest.mark.parametrize(
    "text", [None, b"", b"nothing", b"[]", b'{"scaler":"dynamo","state":{}}', b'{"scaler":"baton","state":{"means":1}}']
)
def test_a_state_that_cannot_be_read_is_a_first_one(text: bytes | None) -> None:
    """Nobody's, another scaler's, or an older Baton's: the scaler begins anew, and nothing is stopped by it."""
    assert ScalingMemory(BatonScaler(limits(), policy())).read(text) == BatonState()
