"""Workers are looked at only when they are asked for, and decisions are those of a view in which all were."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from core.ids import Epoch, RequestId, WorkerId
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState
from router.balancer.registry import make_balancer
from router.limits import Limits
from router.plan import Ask
from router.predict.predictor import Predictor
from router.workers import Workers

FACTS = EngineFacts(16, 640, 8192, 8, 512)
ASK = Ask(RequestId("r"), 500, 10, True, hits={WorkerId("prefill-7"): 256})


def link(role, number):
    card = WorkerCard(WorkerId(f"{role}-{number}"), Epoch(1), role, WorkerState.READY, "", "", FACTS)
    return SimpleNamespace(card=card, load=WorkerLoad(free_blocks=640 - number, num_blocks=640), up=True)


def workers(count=300):
    known = Workers(Limits())
    for number in range(count):
        known.enter(link(Role.PREFILL if number % 2 else Role.DECODE, number))
    return known


@pytest.mark.parametrize("policy", ["baton", "least_outstanding_tokens", "dynamo_kv"])
def test_decisions_are_those_of_a_view_of_everybody(policy):
    """The same lots drawn, the same plan, the same costs, under every kind of policy; most of 300 workers were never looked at."""

    def choose(seed, view):
        decision = make_balancer(policy, random.Random(seed), Predictor()).choose(ASK, view)
        return decision.chosen, list(decision.candidates), decision.rejected

    for seed in range(5):
        sight = workers().view()
        assert choose(seed, sight) == choose(seed, dict(workers().view()))
        assert len(sight._seen) <= 2 * 48 + 16


def test_a_view_has_those_that_are_up_with_the_role_that_they_have():
    """As a mapping, and by pool."""
    known = workers(4)
    gone = known.view()._links[WorkerId("decode-2")]
    gone.up = False
    view = known.view()
    assert set(view) == {"decode-0", "prefill-1", "prefill-3"}
    assert len(view) == 3
    assert "decode-2" not in view
    assert view.pool(Role.PREFILL) == ["prefill-1", "prefill-3"]
    assert view[WorkerId("decode-0")].load.free_blocks == 640


def test_what_has_changed_is_seen_by_the_next_view_and_not_by_this_one():
    """A view is of one moment. What has not changed is not made anew."""
    known = workers(2)
    before = known.view()
    name = WorkerId("decode-0")
    seen = before[name]
    before._links[name].load = WorkerLoad(free_blocks=7, num_blocks=640)
    assert before[name] is seen
    after = known.view()
    assert after[name].load.free_blocks == 7
    assert known.view()[name] is after[name]
