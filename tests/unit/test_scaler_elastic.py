"""Simulated workers come, go and change roles; and what a scaler hears of it."""

from __future__ import annotations

import random

import pytest

from autoscaler.base import Scaler
from autoscaler.plan import Action, Add, Drain, Plan, Relabel
from autoscaler.signals import Phase, Signals
from autoscaler.static import Nothing, StaticScaler
from core.ids import WorkerId
from core.step_model import StepModel
from core.worker import Role
from engine.sim_config import SimulatedEngineConfig
from router.balancer.registry import make_policy
from simulation.cluster import ClusterSpec, Pool
from simulation.elastic import ElasticCluster, Pace
from simulation.traces import Trace, synthetic

ENGINE = SimulatedEngineConfig(
    block_size_tokens=64, num_blocks=512, max_model_len=16_384, max_num_seqs=32, max_num_batched_tokens=2048, kv_bytes_per_token=100_000
)
STEP = StepModel(0.004, 2e-5, 0.0, 0.006, 1e-5, 0.0)


class Scripted(Scaler[Nothing]):
    """Does at its times what it was told to, and keeps what it hears."""

    name = "scripted"

    def __init__(self, script: dict[float, Action]) -> None:
        self.heard: list[tuple[float, Signals]] = []
        self._script = dict(script)

    def first(self) -> Nothing:
        return Nothing()

    def plan(self, signals: Signals, state: Nothing, now_s: float) -> tuple[Plan, Nothing]:
        self.heard.append((now_s, signals))
        due = [at_s for at_s in self._script if at_s <= now_s]
        return Plan(now_s, self.name, actions=tuple(self._script.pop(at_s) for at_s in due)), state


def cluster(scaler: Scaler[Nothing]) -> ElasticCluster:
    pools = [Pool(Role.PREFILL, 1, ENGINE), Pool(Role.DECODE, 2, ENGINE)]
    spec = ClusterSpec(pools, STEP, lambda rng, predictions: make_policy("baton", rng, predictions))
    return ElasticCluster(spec, 1, scaler, Pace(every_s=1.0, start_up_s=10.0, start_up_spread=0.0))


def traffic() -> Trace:
    made = synthetic(random.Random(3), requests=300, rate=6.0, prompt_tokens=1500, output_tokens=60, turns=3)
    return made.in_blocks_of(ENGINE.block_size_tokens)


def counts(heard: Signals, phase: Phase) -> list[int]:
    return [len(heard.of(role, phase)) for role in Role]


def test_no_request_notices() -> None:
    """Whoever comes, goes or changes meanwhile: every answer is complete, and nothing is left anywhere."""
    scripted = Scripted(
        {
            2.0: Add(Role.PREFILL, 2),
            5.0: Relabel(WorkerId("decode-0"), Role.PREFILL),
            15.0: Drain(WorkerId("prefill-0"), Role.PREFILL),
            20.0: Relabel(WorkerId("decode-0"), Role.DECODE),
            25.0: Drain(WorkerId("decode-1"), Role.DECODE),
        }
    )
    sim = cluster(scripted)
    records = sim.replay(traffic())
    assert all(record.is_complete for record in records)
    sim.settle(2 * ENGINE.lease_s)
    assert sorted(sim.workers) == ["decode-0", "prefill-3", "prefill-4"]
    assert all(worker.idle for worker in sim.workers.values())
    assert all(router.dispatcher.outstanding_legs == 0 and len(router.dispatcher) == 0 for router in sim.routers)


def test_workers_are_heard_of_as_they_are() -> None:
    """Starting from when they are asked for, ready after their start-up time, with their new role at once, gone when they are done."""
    scripted = Scripted(
        {2.0: Add(Role.PREFILL, 1), 5.0: Relabel(WorkerId("decode-0"), Role.PREFILL), 15.0: Drain(WorkerId("decode-1"), Role.DECODE)}
    )
    sim = cluster(scripted)
    sim.replay(traffic())
    at = dict(scripted.heard)
    assert (counts(at[2.0], Phase.READY), counts(at[3.0], Phase.STARTING)) == ([1, 2], [1, 0])
    assert counts(at[6.0], Phase.READY) == [2, 1]
    assert counts(at[13.0], Phase.READY) == [3, 1]
    assert next(seen.start_up_s for seen in at[13.0].workers if seen.worker == "prefill-3") == 10.0
    assert counts(scripted.heard[-1][1], Phase.READY) == [3, 0]
    assert "decode-1" not in {seen.worker for seen in scripted.heard[-1][1].workers}


def test_a_start_can_be_given_up() -> None:
    """A worker told to go before it is ready never serves, and costs until it was told."""
    sim = cluster(Scripted({2.0: Add(Role.DECODE, 1), 6.0: Drain(WorkerId("decode-3"), Role.DECODE)}))
    sim.replay(traffic())
    assert len(sim.workers) == 3
    assert sim.worker_seconds(40.0) == pytest.approx(3 * 40.0 + 4.0)


def test_traffic_is_measured() -> None:
    """Rates, lengths and hits of the last minute are about those of the trace."""
    scripted, trace = Scripted({}), traffic()
    cluster(scripted).replay(trace)
    heard = dict(scripted.heard)[40.0].traffic
    arrived = [each for each in trace.requests if each.arrival_s <= 40.0]
    assert heard.arrivals_per_s is not None
    assert heard.arrivals_per_s.value == pytest.approx(len(arrived) / 40.0)
    assert heard.prompt_tokens is not None
    assert heard.prompt_tokens.value == pytest.approx(sum(each.prompt_tokens for each in arrived) / len(arrived))
    assert heard.output_tokens is not None
    assert heard.output_tokens.value == pytest.approx(60.0, rel=0.3)
    assert heard.hit_rate is not None
    assert 0.0 < heard.hit_rate.value < 1.0


def test_the_same_again() -> None:
    """Same seed, same scaler: the same plans and the same answers."""
    both = [cluster(StaticScaler(2, 3)) for _ in range(2)]
    first, second = ([(record.ttft_s, record.ended_s) for record in sim.replay(traffic())] for sim in both)
    assert first == second
    assert both[0].plans == both[1].plans
