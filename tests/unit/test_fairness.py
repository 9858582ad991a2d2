"""Fairness between tenants: the counters, and the shares that come of them in the queue."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import RequestId
from router.fairness import OUTPUT_TOKEN, PROMPT_TOKEN, VirtualCounters
from router.queue import QueueLimits, RequestQueue
from router.service import WantedService
from router.waiting import Rank, Waiting

LONGEST_PROMPT, LONGEST_ANSWER = 500, 200


class OneWorker:
    """Runs ``slots`` requests at once, a token each per step, for tenants that always have ``backlog`` waiting."""

    def __init__(self, weights: Mapping[str, float], slots: int, backlog: int, seed: int) -> None:
        self.queue = RequestQueue(QueueLimits())
        self._services = {tenant: WantedService(tenant, weight=weight) for tenant, weight in weights.items()}
        self._slots = slots
        self._random = random.Random(seed)
        self._running: deque[tuple[str, int]] = deque()
        self._number = 0
        for tenant in weights:
            for _ in range(backlog):
                self._ask(tenant)

    def step(self) -> None:
        """Places while there is room, then makes a token for everyone."""
        while len(self._running) < self._slots:
            first = next(self.queue.in_turn(0.0))
            self.queue.placed(first.request)
            self._running.append((first.service.tenant, self._random.randint(1, LONGEST_ANSWER)))
            self._ask(first.service.tenant)
        for _ in range(len(self._running)):
            tenant, left = self._running.popleft()
            self.queue.counters.produced(tenant, self._services[tenant].weight, 1)
            if left > 1:
                self._running.append((tenant, left - 1))

    def _ask(self, tenant: str) -> None:
        self._number += 1
        tokens = self._random.randint(1, LONGEST_PROMPT)
        request = RequestId(f"{tenant}-{self._number}")
        self.queue.enter(Waiting(request, Rank.NEW, tokens, self._number, 1e9, self._services[tenant]), 0.0)


@given(
    weights=st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0.5, 1.0, 3.0]), min_size=2),
    slots=st.integers(1, 8),
    backlog=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_backlogged_tenants_get_what_their_weights_say(weights: Mapping[str, float], slots: int, backlog: int, seed: int) -> None:
    """At no time does weighted service differ by more than one prompt and the output of all that runs at once."""
    worker = OneWorker(weights, slots, backlog, seed)
    bound = (PROMPT_TOKEN * LONGEST_PROMPT + OUTPUT_TOKEN * LONGEST_ANSWER * slots) / min(weights.values())
    for _ in range(1000):
        worker.step()
        counters = [worker.queue.counters.of(tenant) for tenant in weights]
        assert max(counters) - min(counters) <= bound


def test_a_tenant_that_returns_claims_nothing() -> None:
    """It begins where the least of those begins that have been waiting."""
    counters = VirtualCounters()
    for tenant, tokens in (("a", 1000), ("b", 400)):
        counters.joins(tenant, ())
        counters.placed(tenant, 1.0, tokens)
    counters.joins("sleeper", ["a", "b"])
    assert [counters.of(tenant) for tenant in ("a", "b", "sleeper")] == [1000, 400, 400]


def test_a_tenant_that_had_much_owes_what_it_had() -> None:
    """Leaving the queue for a moment wipes out no debt."""
    counters = VirtualCounters()
    counters.placed("greedy", 1.0, 5000)
    counters.joins("greedy", ["other"])
    assert counters.of("greedy") == 5000


def test_while_nobody_waits_no_credit_grows() -> None:
    """An hour of quiet service for one is no hour of precedence for the other: each comes in where the last one was placed."""
    queue = RequestQueue(QueueLimits())
    for number in range(100):
        queue.placed(RequestId(f"busy-{number}"), WantedService("busy"), 1000)
    queue.placed(RequestId("newcomer"), WantedService("newcomer"), 10)
    assert queue.counters.of("newcomer") == pytest.approx(99_000 + 10)


def test_only_so_many_tenants_are_kept() -> None:
    """Names cost nothing to make up. Who is forgotten has no advantage from it."""
    counters = VirtualCounters(most=3)
    for number in range(10):
        counters.joins(f"t{number}", ())
        counters.placed(f"t{number}", 1.0, 100)
    assert len(counters) == 3
    assert counters.of("t0") >= counters.of("t9") - 100


def test_weights_divide_and_output_counts_twice() -> None:
    """A tenant of weight 2 is charged half."""
    counters = VirtualCounters()
    counters.placed("a", 2.0, 100)
    counters.produced("a", 2.0, 100)
    assert counters.of("a") == 150.0


def test_a_request_is_charged_once() -> None:
    """However often workers refuse it, and whether it waited or not."""
    queue = RequestQueue(QueueLimits())
    service = WantedService("a")
    queue.placed(RequestId("r"), service, 100)
    for _ in range(3):
        queue.enter(Waiting(RequestId("r"), Rank.NEW, 100, 0.0, 30.0, service), 0.0)
        queue.placed(RequestId("r"))
    assert queue.counters.of("a") == 100.0
