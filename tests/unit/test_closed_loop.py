"""Clients that ask again when they have their answer."""

from __future__ import annotations

import random

import pytest

from core.step_model import StepModel
from core.worker import Role
from engine.sim_config import SimulatedEngineConfig
from router.balancer.registry import make_policy
from router.queue import QueueLimits
from simulation.closed_loop import serve
from simulation.cluster import Cluster, ClusterSpec, Pool
from simulation.traces import TraceRequest

ENGINE = SimulatedEngineConfig(num_blocks=4096, max_model_len=8192)
PREFILL, DECODE = StepModel(prefill_base_s=0.02), StepModel(decode_base_s=0.01)


def _cluster(*, first_from_decode: bool = False, queue: QueueLimits = QueueLimits()) -> Cluster:  # noqa: B008 - frozen
    pools = [Pool(Role.PREFILL, 1, ENGINE, step=PREFILL), Pool(Role.DECODE, 1, ENGINE, step=DECODE)]
    spec = ClusterSpec(
        pools,
        StepModel(),
        lambda rng, predictions: make_policy("least_outstanding_tokens", rng, predictions),
        message_s=0.0,
        first_from_decode=first_from_decode,
        queue=queue,
    )
    return Cluster(spec, seed=1)


def _requests(count: int) -> list[TraceRequest]:
    rng = random.Random(3)
    return [TraceRequest(0.0, rng.randint(16, 600), rng.randint(2, 40)) for _ in range(count)]


@pytest.mark.parametrize(("clients", "count"), [(1, 5), (4, 40), (16, 40), (64, 10)])
def test_never_more_requests_are_open_than_there_are_clients_and_no_client_rests(clients: int, count: int) -> None:
    """Every request is served whole, and whenever one ends while others are left, the next is asked at that moment."""
    records = serve(_cluster(), _requests(count), clients)
    assert len(records) == count
    assert all(record.is_complete for record in records)
    ends_s = sorted(record.ended_s for record in records if record.ended_s is not None)
    arrivals_s = [record.arrival_s for record in records]
    first = min(clients, count)
    assert arrivals_s[:first] == [0.0] * first
    assert arrivals_s[first:] == pytest.approx(ends_s[: count - first])


def test_who_is_refused_asks_again() -> None:
    """A refusal is an answer: with no place in the queue the loop goes on, and ends."""
    records = serve(_cluster(queue=QueueLimits(max_requests=0)), _requests(20), 4)
    assert len(records) == 20
    assert all(record.ended_s is not None for record in records)


def test_no_clients_are_a_mistake() -> None:
    """Nothing would ever happen."""
    with pytest.raises(ValueError, match="at least one client"):
        serve(_cluster(), _requests(1), 0)


def test_pools_have_step_times_of_their_own() -> None:
    """One prompt costs a prefill step; each of its tokens behind the first a step of the other pool."""
    record = serve(_cluster(), [TraceRequest(0.0, 100, 11)], 1)[0]
    assert record.ttft_s == pytest.approx(0.02, abs=1e-3)
    assert record.tpot_s == pytest.approx(0.01, abs=1e-3)


def test_a_first_token_of_decode_comes_behind_the_hand_over() -> None:
    """As other systems count: prefill, transfer and a step of decode are before the first token, and no time between tokens is theirs."""
    ours, theirs = (serve(_cluster(first_from_decode=way), [TraceRequest(0.0, 100, 11)], 1)[0] for way in (False, True))
    assert theirs.is_complete
    assert ours.ttft_s is not None
    assert theirs.ttft_s is not None
    assert theirs.ttft_s > ours.ttft_s + 0.01
    assert theirs.tpot_s == pytest.approx(0.01)
