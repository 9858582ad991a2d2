"""How much of a worker's time goes into prompts: a fading sum, fair from the first second on."""

from __future__ import annotations

import pytest

from core.ids import WorkerId
from router.balancer.prefill_share import PrefillShare

A, B = (WorkerId(name) for name in "ab")


def busy(share: PrefillShare, worker: WorkerId, part: float, since_s: float, until_s: float) -> None:
    """Prompts of a tenth of a second, as many as make up ``part`` of the time."""
    every_s = 0.1 / part
    for number in range(round((until_s - since_s) / every_s)):
        share.took(worker, 0.1, since_s + number * every_s)


@pytest.mark.parametrize("until_s", [10.0, 30.0, 300.0])
def test_a_steady_share_is_found(until_s: float) -> None:
    """Soon, and for good: what fades is as much as what comes."""
    share = PrefillShare()
    busy(share, A, 0.4, 0.0, until_s)
    assert share.of(A, until_s) == pytest.approx(0.4, rel=0.15)


def test_one_prompt_at_the_start_is_no_full_load() -> None:
    """Nor nothing."""
    share = PrefillShare()
    share.took(A, 0.1, 100.0)
    assert 0.05 < share.of(A, 100.0) < 0.2
    assert share.of(B, 100.0) == 0.0


def test_the_past_is_forgotten() -> None:
    """A minute of silence leaves next to nothing."""
    share = PrefillShare()
    busy(share, A, 0.9, 0.0, 60.0)
    assert share.of(A, 120.0) < 0.01


def test_a_worker_that_is_gone_is_forgotten() -> None:
    """And does not count in its pool."""
    share = PrefillShare()
    busy(share, A, 0.6, 0.0, 60.0)
    share.forget(A)
    assert share.of(A, 60.0) == 0.0
