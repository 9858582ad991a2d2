"""What a worker is given per second: a fading sum, fair from the first second on."""

from __future__ import annotations

import pytest

from core.ids import Epoch, WorkerId
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState
from router.balancer.rate import Rate
from router.plan import WorkerView

A, B, C = (WorkerId(name) for name in "abc")
FACTS = EngineFacts(block_size_tokens=16, num_blocks=100, max_model_len=1000, max_num_seqs=8, max_num_batched_tokens=100)


def view_of(name: WorkerId, role: Role) -> WorkerView:
    return WorkerView(WorkerCard(name, Epoch(1), role, WorkerState.READY, "tcp://h:1", "k", FACTS), WorkerLoad())


def busy(share: Rate, worker: WorkerId, part: float, since_s: float, until_s: float) -> None:
    """Prompts of a tenth of a second, as many as make up ``part`` of the time."""
    every_s = 0.1 / part
    for number in range(round((until_s - since_s) / every_s)):
        share.took(worker, 0.1, since_s + number * every_s)


@pytest.mark.parametrize("until_s", [10.0, 30.0, 300.0])
def test_a_steady_share_is_found(until_s: float) -> None:
    """Soon, and for good: what fades is as much as what comes."""
    share = Rate()
    busy(share, A, 0.4, 0.0, until_s)
    assert share.of(A, until_s) == pytest.approx(0.4, rel=0.15)


def test_one_prompt_at_the_start_is_no_full_load() -> None:
    """Nor nothing."""
    share = Rate()
    share.took(A, 0.1, 100.0)
    assert 0.05 < share.of(A, 100.0) < 0.2
    assert share.of(B, 100.0) == 0.0


def test_the_past_is_forgotten() -> None:
    """A minute of silence leaves next to nothing."""
    share = Rate()
    busy(share, A, 0.9, 0.0, 60.0)
    assert share.of(A, 120.0) < 0.01


def test_a_worker_that_is_gone_is_forgotten() -> None:
    """And does not count in its pool."""
    share = Rate()
    busy(share, A, 0.6, 0.0, 60.0)
    share.forget(A)
    assert share.of(A, 60.0) == 0.0


def test_the_mean_of_a_pool_is_of_its_workers_now() -> None:
    """Those with nothing count, those of the other pool and those that are gone do not; a tenth of a second old at most."""
    view = {name: view_of(name, role) for name, role in ((A, Role.DECODE), (B, Role.DECODE), (C, Role.PREFILL))}
    share = Rate()
    busy(share, A, 0.6, 0.0, 60.0)
    busy(share, C, 0.9, 0.0, 60.0)
    assert share.mean(Role.DECODE, view, 60.0) == share.of(A, 60.0) / 2
    share.took(B, 5.0, 60.05)
    assert share.mean(Role.DECODE, view, 60.05) == share.of(A, 60.0) / 2
    assert share.mean(Role.DECODE, view, 60.2) == pytest.approx((share.of(A, 60.2) + share.of(B, 60.2)) / 2)
    share.forget(A)
    assert share.mean(Role.DECODE, view, 60.2) == share.of(B, 60.2) / 2
