"""The real stack beside the virtual clock: that both sides are given the same, and what is said of how far they agree."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from benchmarks.peers.drive import prompt_of
from benchmarks.real_stack.comparison import Comparison
from benchmarks.real_stack.page import error, is_within_seeds, ordered_alike, page
from benchmarks.real_stack.real import Measured
from benchmarks.real_stack.runs import Found
from benchmarks.real_stack.virtual import joined, split
from core.config import BatonConfig
from core.worker import Role
from deploy.demo_model import VOCAB_SIZE
from engine.sim_config import SimulatedEngineConfig
from router.limits import Limits
from simulation.goodput import Objective, Outcome
from simulation.record import Record

COMPARISON = Comparison(
    trace="mooncake_conversation",
    rates=(10.0, 20.0),
    requests=30,
    warm_up=10,
    objective=Objective(0.5, 0.025),
    slowdown=10.0,
    longest_tokens=8000,
)


def _config() -> BatonConfig:
    return BatonConfig.model_validate(COMPARISON.stack("baton", Path("/model")))


def test_both_sides_have_the_same_workers() -> None:
    """Numbers, memory, step sizes, step times, links and leases; only the pace is the real side's own."""
    config, spec = _config(), COMPARISON.spec("baton")
    real = SimulatedEngineConfig.of_config(config, "127.0.0.1")
    for pool in spec.pools:
        assert config.pool(pool.role).count == pool.count
        assert real.facts == pool.engine.facts
        assert (real.kv_bytes_per_token, real.lease_s) == (pool.engine.kv_bytes_per_token, pool.engine.lease_s)
    assert {pool.role for pool in spec.pools} == set(Role)
    assert msgspec.structs.asdict(real.timing) == msgspec.structs.asdict(spec.step)
    assert (real.link_gbps, real.link_latency_s) == (spec.port.gbps, spec.port.latency_s)
    assert real.slowdown == config.engine.slowdown == COMPARISON.slowdown


def test_both_sides_promise_and_refuse_the_same() -> None:
    """Objectives are in the simulation's seconds on both sides, and so is what may wait in a router's queue."""
    config, spec = _config(), COMPARISON.spec("baton")
    assert (config.objectives.ttft_s, config.objectives.tpot_s) == (spec.service.ttft_s, spec.service.tpot_s)
    assert Limits.of_config(config).queue == spec.limits.queue
    assert config.router.replicas == spec.routers


def test_parts_are_the_same_requests_at_other_rates() -> None:
    """Every rate is as asked for, with the same prompts and answers, and no part finds anything of another's in a cache."""
    warm_up, *parts = COMPARISON.parts
    assert [part.rate for part in parts] == pytest.approx([10.0, 20.0])
    assert len(warm_up.requests) == 10
    for one, other in pairwise(parts):
        assert [(each.prompt_tokens, each.output_tokens) for each in one.requests] == [
            (each.prompt_tokens, each.output_tokens) for each in other.requests
        ]
    blocks = [{block for request in part.requests for block in request.block_hashes} for part in (warm_up, *parts)]
    assert not set.intersection(*blocks[:2]) | set.intersection(*blocks[1:])
    assert all(request.prompt_tokens <= 8000 for part in parts for request in part.requests)


def test_prompts_of_which_nothing_is_known_share_nothing() -> None:
    """Not with each other and not with the same request at another rate, so that real caches hold no more than virtual ones."""
    parts = msgspec.structs.replace(COMPARISON, trace="azure_code").parts
    blocks = [block for part in parts for request in part.requests for block in request.block_hashes]
    assert len(blocks) == len(set(blocks)) > 0
    prompts = [prompt_of(part.requests[0], 0, part.block_tokens, VOCAB_SIZE) for part in parts[1:]]
    assert prompts[0][: parts[0].block_tokens] != prompts[1][: parts[0].block_tokens]


def test_parts_follow_each_other_and_come_apart_again() -> None:
    """One long trace is offered in order, and its records are each part's own."""
    parts = COMPARISON.parts
    whole = joined(parts)
    arrivals_s = [request.arrival_s for request in whole.requests]
    assert arrivals_s == sorted(arrivals_s)
    records = [Record(request, request.arrival_s) for request in whole.requests]
    for part, its in zip(parts, split(records, parts), strict=True):
        assert [record.request.block_hashes for record in its] == [request.block_hashes for request in part.requests]


def _outcome(good: int) -> Outcome:
    spread = [0.1] * 101
    return Outcome(10.0, 100, good, good, 100 - good, 0, 0, 0, 0.0, spread, spread, 0.0, 1.0)


def _found(policy: str, virtual: list[int], real: int, others: float = 0.0) -> Found:
    return Found(policy, [[_outcome(good)] for good in virtual], [Measured(_outcome(real), 0.2, 0.1, others, {"router": 0.1})])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (([90, 92], 91), ([80, 82], 81), (1, 1, 1)),
        (([90, 92], 80), ([80, 82], 81), (0, 1, 1)),
        (([90, 92], 80), ([80, 91], 81), (0, 0, 1)),
        (([90, 92], 85), ([80, 82], 85), (0, 1, 1)),
    ],
    ids=["alike", "the other way round", "seeds overlap", "equal for real"],
)
def test_order_counts_where_seeds_tell_policies_apart(
    one: tuple[list[int], int], other: tuple[list[int], int], expected: tuple[int, int, int]
) -> None:
    """A pair whose seeds overlap has no order that the real side could confirm."""
    assert ordered_alike([_found("one", *one), _found("other", *other)], 0) == expected


def test_the_difference_is_of_the_virtual_mean() -> None:
    """76 good ones where the seeds have 90 and 100 are a fifth too few, and no seed has so few."""
    found = _found("baton", [90, 100], 76)
    assert error(found, 0) == pytest.approx(-0.2)
    assert not is_within_seeds(found, 0)
    assert is_within_seeds(_found("baton", [90, 100], 90), 0)


def test_the_page_says_when_it_was_disturbed() -> None:
    """Figures from a machine that others used are preliminary."""
    comparison = msgspec.structs.replace(COMPARISON, rates=(10.0,))
    quiet, disturbed = _found("baton", [90], 91), _found("random", [80], 60, others=0.4)
    assert "reliminary" not in page(comparison, [quiet], "command", 2)
    text = page(comparison, [quiet, disturbed], "command", 2)
    assert "Preliminary" in text
    assert "| baton | 90.0% [90.0%, 90.0%] | 91.0% | +1.1% |" in text
