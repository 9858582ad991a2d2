"""Which plans are possible, and why the rest is not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from core.ids import Epoch, RequestId, WorkerId
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState
from router.balancer.balancer import Balancer
from router.balancer.candidates import Alone, candidates
from router.balancer.round_robin import RoundRobin
from router.plan import Ask, Plan, WorkerView

READY, DRAINING = WorkerState.READY, WorkerState.DRAINING
FACTS = EngineFacts(16, 64, 1024, 8, 512)
P0, P1, D0, D1, D2 = (WorkerId(name) for name in ("p0", "p1", "d0", "d1", "d2"))


def seen(name: str, state: WorkerState = READY, prefill: int = 0, decode: int = 0) -> WorkerView:
    role = Role.PREFILL if name.startswith("p") else Role.DECODE
    card = WorkerCard(WorkerId(name), Epoch(1), role, state, "tcp://h:1", "k", FACTS)
    return WorkerView(card, WorkerLoad(), prefill, decode)


def view(*names: str, **changed: WorkerView) -> dict[WorkerId, WorkerView]:
    return {WorkerId(name): changed.get(name, seen(name)) for name in names}


def ask(
    splittable: bool = True,
    prompt_tokens: int = 20,
    excluded: frozenset[WorkerId] = frozenset(),
    keeper: WorkerId | None = None,
    urgent: bool = False,
) -> Ask:
    return Ask(RequestId("r"), prompt_tokens, 10, splittable, excluded, keeper, urgent)


GONE = {"p0": seen("p0", DRAINING)}
FULL_P0 = {"p0": replace(seen("p0"), refused="it refused: full")}
FULL_D0 = {"d0": replace(seen("d0"), refused="it refused: full")}
POSSIBLE: dict[str, tuple[Ask, dict[WorkerId, WorkerView], list[tuple[str, str]], str]] = {
    "every pair": (
        ask(),
        view("p0", "p1", "d0", "d1"),
        [("p0", "d0"), ("p0", "d1"), ("p1", "d0"), ("p1", "d1")],
        "split over two workers",
    ),
    "not to be split": (ask(splittable=False), view("p0", "p1", "d0"), [("p0", "p0"), ("p1", "p1")], "one worker: cannot be split"),
    "not to be split, no prefill worker": (ask(splittable=False), view("d0"), [("d0", "d0")], "one worker: cannot be split"),
    "no decode worker": (ask(), view("p0", "p1"), [("p0", "p0"), ("p1", "p1")], "one worker: no decode worker is ready"),
    "no prefill worker": (ask(), view("d0", "d1"), [("d0", "d0"), ("d1", "d1")], "one worker: no prefill worker is ready"),
    "one draining": (ask(), view("p0", "p1", "d0", **GONE), [("p1", "d0")], "split over two workers"),
    "the only prefill worker draining": (ask(), view("p0", "d0", **GONE), [("d0", "d0")], "one worker: no prefill worker is ready"),
    "one excluded": (ask(excluded=frozenset({D0})), view("p0", "d0", "d1"), [("p0", "d1")], "split over two workers"),
    "a pool excluded": (ask(excluded=frozenset({D0})), view("p0", "d0"), [("p0", "p0")], "one worker: no decode worker is ready"),
    "all excluded": (ask(excluded=frozenset({P0, D0})), view("p0", "d0"), [], ""),
    "nobody": (ask(), {}, [], ""),
    "the prompt is computed": (
        ask(keeper=P0),
        view("p0", "p1", "d0", "d1"),
        [("p0", "d0"), ("p0", "d1")],
        "the prompt is computed already",
    ),
    "the prompt is computed, nobody decodes": (
        ask(keeper=P0),
        view("p0", "p1"),
        [("p0", "p0"), ("p1", "p1")],
        "one worker: no decode worker is ready",
    ),
    "urgent: a decode worker alone is as good": (
        ask(urgent=True),
        view("p0", "d0", "d1"),
        [("p0", "d0"), ("p0", "d1"), ("d0", "d0"), ("d1", "d1")],
        "split, or alone where that is better",
    ),
    "urgent, prefill full": (ask(urgent=True), view("p0", "d0", **FULL_P0), [("d0", "d0")], "split, or alone where that is better"),
    "one prefill worker full": (ask(), view("p0", "p1", "d0", **FULL_P0), [("p1", "d0")], "split over two workers"),
    "one decode worker full": (ask(), view("p0", "d0", "d1", **FULL_D0), [("p0", "d1")], "split over two workers"),
    "a pool full: it is waited for": (ask(), view("p0", "d0", **FULL_D0), [], ""),
    "a pool full, the prompt is computed": (ask(keeper=P0), view("p0", "d0", **FULL_D0), [], ""),
    "not to be split, one full": (ask(splittable=False), view("p0", "p1", "d0", **FULL_P0), [("p1", "p1")], "one worker: cannot be split"),
    "too long for anybody": (ask(prompt_tokens=1024), view("p0", "d0"), [], ""),
    "just not too long": (ask(prompt_tokens=1023), view("p0", "d0"), [("p0", "d0")], "split over two workers"),
}


@pytest.mark.parametrize(("question", "workers", "pairs", "kind"), POSSIBLE.values(), ids=POSSIBLE.keys())
def test_candidates(question: Ask, workers: dict[WorkerId, WorkerView], pairs: list[tuple[str, str]], kind: str) -> None:
    """Plans as (prefill, decode), and in words of what kind they are."""
    found = candidates(question, workers)
    plans = found.plans()
    assert bool(found) == bool(plans)
    assert plans == [Plan(WorkerId(prefill), WorkerId(decode)) for prefill, decode in pairs]
    assert found.kind == kind or not plans


ALONE: dict[Alone, list[str]] = {Alone.NEVER: [], Alone.DECODE: ["d0", "d1"]}


@pytest.mark.parametrize(("alone", "whole"), ALONE.items())
def test_who_may_serve_alone_is_the_policys_to_say(alone: Alone, whole: list[str]) -> None:
    """Beside the pairs, with room for all of the request; one that cannot be split goes to whoever the policy considers."""
    workers = view("p0", "p1", "d0", "d1", **FULL_P0)
    assert candidates(ask(), workers, alone).alone == whole
    if alone is Alone.DECODE:
        assert candidates(ask(splittable=False), workers, alone).alone == ["p1", "d0", "d1"]


def test_whoever_is_in_no_plan_has_a_reason() -> None:
    """An operator can ask why a worker got nothing."""
    workers = view("p0", "p1", "d0", "d1", p0=seen("p0", DRAINING))
    rejected = candidates(ask(excluded=frozenset({D0})), workers).rejected
    assert rejected == {"p0": "draining", "d0": "refused this request or was lost under it"}
    rejected = candidates(ask(prompt_tokens=5000), view("p0")).rejected
    assert rejected == {"p0": "its KV cache has room for 1024 tokens only"}


def test_without_a_candidate_nothing_is_chosen() -> None:
    """And the decision says why."""
    decision = Balancer(RoundRobin(random.Random(0))).choose(ask(excluded=frozenset({P0})), view("p0"))
    assert (decision.chosen, list(decision.candidates), decision.reason) == (None, [], "no worker can take it")
    assert list(decision.rejected) == ["p0"]
