"""What the console is told: bounded, whatever the size of the cluster, and true of the moment. And that its page is its own."""

from __future__ import annotations

import asyncio
import math
import re
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from core.ids import Epoch, RequestId, RouterId, WorkerId
from core.metrics.words import Part
from core.router_config import ApiKeysConfig
from core.worker import EngineFacts, OthersLoad, Role, WorkerCard, WorkerLoad, WorkerState
from router.console.files import FILES, HEADERS
from router.console.heard import Answer, Heard
from router.console.pools import MOST_WORKERS, UNREACHABLE, pools
from router.console.requests import MOST_CANDIDATES, MOST_REJECTED, decision_row, request_row
from router.console.routes import Console, console_routes
from router.console.scaling import scaling_row
from router.console.state import MOST_DECISIONS, MOST_PAIRS, MOST_REQUESTS, console_state
from router.gate import Gate
from router.handovers import WINDOW_S, Handovers
from router.keys import KeyRing
from router.plan import Ask, Decision, Plan, Scored, WorkerView
from router.timeline import Timeline, TimelineBook

FACTS = EngineFacts(16, 100, 4096, 64, 2048)


def card(name: str, role: Role = Role.DECODE, state: WorkerState = WorkerState.READY) -> WorkerCard:
    return WorkerCard(WorkerId(name), Epoch(1), role, state, "tcp://h:1", "k" * 40, FACTS)


def view(name: str, role: Role = Role.DECODE, *, running: int = 0, free: int = 100, mine: int = 0, others: int = 0) -> WorkerView:
    load = WorkerLoad(running=running, free_blocks=free, num_blocks=100, others=OthersLoad(prompt_tokens=others))
    return WorkerView(card(name, role), load, outstanding_prefill_tokens=mine)


def timeline(name: str = "r", prefill: str | None = "p", decode: str | None = "d", **changes: Any) -> Timeline:
    made = Timeline(RequestId(name), f"cmpl-{name}", 1000.0, 50.0, 20, 8)
    made.prefill_worker = None if prefill is None else WorkerId(prefill)
    made.decode_worker = None if decode is None else WorkerId(decode)
    for field, value in changes.items():
        setattr(made, field, value)
    return made


# -- pools -------------------------------------------------------------------------------------------------------------------


def test_sums_are_of_all_workers_and_names_of_the_busiest() -> None:
    """A thousand workers: each counts, so many are named, and those in trouble are among them."""
    seen = {WorkerId(f"d{n:04}"): view(f"d{n:04}", running=n % 7, free=n % 100) for n in range(1000)}
    gone = [card(f"x{n}") for n in range(3)]
    prefill, decode = pools(seen, gone, {})
    assert (prefill.workers, prefill.left_out, decode.states) == ([], 0, {"ready": 1000, UNREACHABLE: 3})
    assert (decode.running, decode.num_blocks) == (sum(n % 7 for n in range(1000)), 100_000)
    assert (len(decode.workers), decode.left_out) == (MOST_WORKERS, 1003 - MOST_WORKERS)
    assert {row.worker for row in decode.workers if row.state == UNREACHABLE} == {"x0", "x1", "x2"}
    assert {row.running for row in decode.workers if row.state == "ready"} == {6}


def test_the_controller_adds_whom_no_router_knows() -> None:
    """Workers that start, and how many are wanted; of those that a router reaches, its own view holds."""
    told = {
        "wanted": {"prefill": 2, "decode": 1},
        "workers": [
            {"worker": "p0", "role": "prefill", "state": "starting", "phase": "late news"},
            {"worker": "p1", "role": "prefill", "state": "starting", "phase": "loading"},
        ],
    }
    prefill, decode = pools({WorkerId("p0"): view("p0", Role.PREFILL)}, [], told)
    assert [(row.worker, row.state, row.phase) for row in prefill.workers] == [("p0", "ready", "late news"), ("p1", "starting", "loading")]
    assert (prefill.wanted, decode.wanted, decode.states) == (2, 1, {})


def test_prompt_tokens_are_those_of_all_routers() -> None:
    """This one's from its books, the others' as the worker tells."""
    [row] = pools({WorkerId("p"): view("p", Role.PREFILL, mine=30, others=12)}, [], {})[0].workers
    assert row.prompt_tokens == 42


# -- hand-overs --------------------------------------------------------------------------------------------------------------


def test_a_minute_of_hand_overs() -> None:
    """Sums per pair, those with the most bytes first; what is older than a minute is forgotten, and what is not listed is counted."""
    moved = Handovers()
    moved.handed_over(timeline(transfer_bytes=5, transfer_s=0.5, decoding_s=1.0, transferred_tokens=3), 0.0)
    for at_s in (10.0, 20.0):
        moved.handed_over(timeline(transfer_bytes=10, transfer_s=0.1, decoding_s=1.0, transferred_tokens=3), at_s)
    moved.handed_over(timeline(decode="e", transfer_bytes=100, decoding_s=1.0, recomputed_tokens=7), 20.0)
    moved.kept_whole(21.0)
    recent = moved.recent(22.0, 10)
    assert [(pair, flow.count, flow.transfer_bytes, flow.recomputed) for pair, flow in recent.pairs] == [
        (("p", "e"), 1, 100, 1),
        (("p", "d"), 3, 25, 0),
    ]
    assert (recent.beyond, recent.whole) == (0, 1)
    shorter = moved.recent(22.0, 1)
    assert (len(shorter.pairs), shorter.beyond) == (1, 3)
    later = moved.recent(11.0 + WINDOW_S, 10)
    assert {pair: flow.count for pair, flow in later.pairs} == {("p", "e"): 1, ("p", "d"): 1}
    assert moved.recent(1000.0, 10).pairs == []


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(0, 3)), max_size=60))
def test_nothing_of_the_last_minute_is_lost(steps: list[tuple[float, int]]) -> None:
    """Whatever comes when: what is younger than the window less a slot is counted, nothing older than the window is."""
    moved, now_s, came = Handovers(), 0.0, []
    for pause_s, pair in steps:
        now_s += pause_s
        moved.handed_over(timeline(decode=f"d{pair}"), now_s)
        came.append(now_s)
    counted = sum(flow.count for _, flow in moved.recent(now_s, 10).pairs)
    assert sum(at_s > now_s - WINDOW_S + 5.0 for at_s in came) <= counted <= sum(at_s > now_s - WINDOW_S for at_s in came)


# -- requests and decisions --------------------------------------------------------------------------------------------------

IN: dict[str, tuple[dict[str, Any], Part | None, dict[Part, float]]] = {
    "waits for a worker": ({}, Part.QUEUE, {Part.QUEUE: 9.0}),
    "prefill": ({"sent_s": 1.0}, Part.PREFILL, {Part.ROUTE: 1.0, Part.QUEUE: 0.0, Part.PREFILL: 8.0}),
    "hand-off": (
        {"sent_s": 1.0, "handed_off_s": 3.0},
        Part.HANDOFF_WAIT,
        {Part.ROUTE: 1.0, Part.QUEUE: 0.0, Part.PREFILL: 2.0, Part.HANDOFF_WAIT: 6.0},
    ),
    "decode": (
        {"sent_s": 1.0, "handed_off_s": 3.0, "decoding_s": 5.0},
        Part.DECODE,
        {Part.ROUTE: 1.0, Part.QUEUE: 0.0, Part.PREFILL: 2.0, Part.DECODE_WAIT: 2.0, Part.DECODE: 4.0},
    ),
    "over": (
        {"sent_s": 1.0, "handed_off_s": 3.0, "decoding_s": 5.0, "finished_s": 6.0},
        None,
        {Part.ROUTE: 1.0, Part.QUEUE: 0.0, Part.PREFILL: 2.0, Part.DECODE_WAIT: 2.0, Part.DECODE: 1.0},
    ),
}


@pytest.mark.parametrize(("times", "part", "parts_s"), IN.values(), ids=IN.keys())
def test_phases_of_a_request_so_far(times: dict[str, Any], part: Part | None, parts_s: dict[Part, float]) -> None:
    """Without a gap up to now, the one it is in too; one that has ended stays as it was."""
    row = request_row(timeline(**times), 59.0)
    assert (row.part, row.parts_s) == (part, parts_s)
    assert sum(row.parts_s.values()) == pytest.approx(row.took_s)


def decided(candidates: int = 3, rejected: int = 0, name: str = "r", cost: float = 1.0) -> Timeline:
    plans = [Scored(Plan(WorkerId("p"), WorkerId(f"d{n}")), cost + n, "quick", {"queue": 0.25}) for n in range(candidates)]
    decision = Decision(plans[0], plans, {WorkerId(f"x{n}"): "draining" for n in range(rejected)}, "split", took_s=0.001)
    made = timeline(name)
    made.decided(Ask(RequestId(name), 20, 10, True), decision, 0.5)
    return made


def test_a_decision_is_told_in_short() -> None:
    """The cheapest candidates and the first of those that were none, with how many more there were."""
    row = decision_row(decided(candidates=9, rejected=1000))
    assert [one["cost"] for one in row["candidates"]] == [1.0 + n for n in range(MOST_CANDIDATES)]
    assert (row["candidates_left_out"], row["rejected_left_out"]) == (9 - MOST_CANDIDATES, 1000 - MOST_REJECTED)
    assert (row["decided_at"], row["chosen"]["decode"]) == (1000.5, "d0")


# -- the whole ---------------------------------------------------------------------------------------------------------------


def told(**changes: Any) -> Answer[dict[str, Any]]:
    return Answer(changes, 0.5, "")


class Quiet(SimpleNamespace):
    """A dispatcher, or a queue, with nobody in it."""

    def __len__(self) -> int:
        return 0


def test_the_state_is_bounded() -> None:
    """A thousand workers that all hand over to each other, and two thousand requests: a page's worth, as JSON that has no infinity."""
    book, moved = TimelineBook(), Handovers()
    for number in range(3000):
        book.add(decided(8, 1000, f"r{number}", math.inf if number == 2999 else 1.0))
        moved.handed_over(timeline(prefill=f"p{number % 500}", decode=f"d{number % 499}"), 0.0)
    seen = {WorkerId(f"d{n}"): view(f"d{n}", running=n) for n in range(1000)}
    dispatcher: Any = Quiet(
        timelines=book, handovers=moved, now_s=1.0, view=lambda: seen, unreachable=[], queue=Quiet(tokens=0), oldest_waiting_s=0.0
    )
    plans = [_plan(at_s) for at_s in range(200)]
    state = console_state(RouterId("r"), dispatcher, told(model="m"), told(enabled=True, plans=plans), 1000.0)
    assert (len(state.requests), len(state.decisions), len(state.flows)) == (MOST_REQUESTS, MOST_DECISIONS, MOST_PAIRS)
    assert (state.model, state.models) == ("m", [])
    assert state.flows_left_out == 3000 - sum(flow.count for flow in state.flows)
    text = msgspec.json.encode(state)
    assert len(text) < 150_000
    assert msgspec.json.decode(text)["decisions"][0]["chosen"]["cost"] is None


def _plan(at_s: float) -> dict[str, Any]:
    pool = {"role": "prefill", "ready": 2, "demand_tokens_per_s": 5.0, "forecast_tokens_per_s": None, "worker_tokens_per_s": 4.0}
    pool |= {"horizon_s": 60.0}
    return {"at_s": at_s, "scaler": "baton", "pools": [pool], "actions": [], "held": "", "warnings": [], "dry_run": False, "text": "..."}


def test_of_plans_the_newest_is_shown_and_the_course_of_all() -> None:
    """Nothing where nobody has answered."""
    row = scaling_row({"enabled": True, "plans": [_plan(2.0), _plan(1.0)], "course": [{"at": 1.0}]})
    assert row.plan is not None
    assert (row.plan["at_s"], row.history) == (2.0, [{"at": 1.0}])
    assert scaling_row({}) == scaling_row({"enabled": False, "plans": []})


def test_what_was_done_is_shown_however_many_plans_ago() -> None:
    """Actions are told apart from plans, which are mostly of nothing to do."""
    done = [{"at_s": 1.0, "text": "add 1 to prefill", "dry_run": False}]
    assert scaling_row({"enabled": True, "plans": [_plan(at_s) for at_s in range(300, 0, -1)], "actions": done}).actions == done


# -- the controller's answers ------------------------------------------------------------------------------------------------


class Asked:
    """A controller that answers when it is told to."""

    def __init__(self) -> None:
        self.times = 0
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.times += 1
        return await asyncio.shield(self.answer)


async def test_who_looks_does_not_wait_for_the_controller() -> None:
    """The last answer is given at once with its age, and asked for anew when it is old; only one question is open at a time."""
    now_s, asked = 100.0, Asked()
    heard = Heard(asked, 2.0, lambda: now_s)
    asked.answer.set_result("first")
    assert await heard.get() == Answer("first", 0.0, "")
    assert (await heard.get(), asked.times) == (Answer("first", 0.0, ""), 1)
    asked.answer = asyncio.get_running_loop().create_future()
    now_s += 5.0
    for _ in range(3):
        assert await heard.get() == Answer("first", 5.0, "")
    await asyncio.sleep(0)
    assert asked.times == 2
    asked.answer.set_result("second")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (await heard.get()).value == "second"


async def test_what_was_heard_before_anybody_looked_is_not_shown_as_new() -> None:
    """Somebody who looks for the first time in minutes waits for what is true now; if that takes too long, the old is told with its age."""
    now_s, asked = 100.0, Asked()
    heard = Heard(asked, 2.0, lambda: now_s)
    asked.answer.set_result("two workers")
    assert (await heard.get()).value == "two workers"
    asked.answer = asyncio.get_running_loop().create_future()
    now_s += 60.0
    looks = asyncio.create_task(heard.get(10.0))
    await asyncio.sleep(0)
    asked.answer.set_result("none")
    assert await looks == Answer("none", 0.0, "")
    asked.answer = asyncio.get_running_loop().create_future()
    now_s += 60.0
    assert await heard.get(0.0) == Answer("none", 60.0, "")


async def test_a_controller_that_is_away() -> None:
    """What it said last stays, with its age and the reason; it is asked again, and found again."""
    now_s, fails = 0.0, False

    async def ask() -> str:
        if fails:
            raise TimeoutError
        return "here"

    heard = Heard(ask, 1.0, lambda: now_s)
    assert (await heard.get()).value == "here"
    fails, now_s = True, 10.0
    assert await heard.get() == Answer("here", 10.0, "TimeoutError")
    fails, now_s = False, 20.0
    await heard.get()
    await asyncio.sleep(0)
    assert await heard.get() == Answer("here", 0.0, "")


async def test_a_controller_that_was_never_there() -> None:
    """The first who looks waits a moment for it, and is told why there is nothing."""

    async def ask() -> str:
        raise ConnectionError

    assert await Heard(ask, 1.0, lambda: 5.0).get() == Answer(None, None, "ConnectionError")


def test_the_state_says_which_model_of_which() -> None:
    """As clients call it, also while the controller is away; and what else there is to be looked at."""
    dispatcher: Any = Quiet(
        timelines=TimelineBook(),
        handovers=Handovers(),
        now_s=1.0,
        view=dict,
        unreachable=[],
        queue=Quiet(tokens=0),
        oldest_waiting_s=0.0,
    )
    away: Answer[dict[str, Any]] = Answer(None, None, "TimeoutError")
    state = console_state(RouterId("r"), dispatcher, away, away, 1000.0, "code", ["chat", "code"])
    assert (state.model, state.models) == ("code", ["chat", "code"])


# -- the page ----------------------------------------------------------------------------------------------------------------


def test_the_page_is_its_own() -> None:
    """It names no other host, has nothing inline, and turns no text into markup or code; what it asks for is there."""
    document = FILES["/console"][1].decode()
    assert re.findall(r"<script(?! type=\"module\" src=)|<style| style=| on\w+=", document) == []
    for path, (_, content) in FILES.items():
        text = content.decode().replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"https?://|//[a-z0-9-]+\.", text) == [], path
        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text) == [], path
        for name in re.findall(r"(?:src|href)=\"console/([^\"]+)\"", text) + re.findall(r"from \"\./([^\"]+)\"", text):
            assert f"/console/{name}" in FILES, (path, name)


def test_the_browser_holds_the_page_to_that() -> None:
    """Nothing is allowed but its own files and its own router, and no text can become markup."""
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["content-security-policy"].split(";"))
    assert policy.pop("default-src") == "'none'"
    assert {name: value for name, value in policy.items() if value not in {"'none'", "'self'"}} == {"require-trusted-types-for": "'script'"}


KEYS = KeyRing(ApiKeysConfig(env="K"), environment={"K": "alice=a-key-0123456789"})


@pytest.mark.parametrize("prefix", ["", "/below"])
async def test_a_slash_behind_it_leads_to_the_page(prefix: str) -> None:
    """Without a key, as the page itself, behind any prefix, and to the model that was asked for. What the page asks for is there."""
    app = FastAPI()
    unused: Any = None
    app.include_router(console_routes(Console(RouterId("r"), unused, unused, unused)))
    gate = Gate(app, 1000, KEYS)
    transport = httpx.ASGITransport(gate, root_path=prefix)
    async with httpx.AsyncClient(transport=transport, base_url="http://router", follow_redirects=True) as client:
        answer = await client.get(f"{prefix}/console/?model=a b")
        assert (answer.status_code, str(answer.url)) == (200, f"http://router{prefix}/console?model=a%20b")
        assert answer.text.startswith("<!doctype html>")
        assert (await client.get(str(answer.url.join("console/main.js")))).status_code == 200
        assert (await client.head(f"{prefix}/console/")).status_code == 200
        assert (await client.get(f"{prefix}/v1/baton/console/")).status_code == 401
