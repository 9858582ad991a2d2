"""The same workers and trace on the virtual clock: what either system's decisions come to where nothing but those takes time."""

from __future__ import annotations

from benchmarks.peers.fleet import Fleet
from core.worker import Role
from engine.sim_config import SimulatedEngineConfig
from router.balancer.registry import make_policy
from router.queue import QueueLimits
from router.service import WantedService
from simulation.cluster import Cluster, ClusterSpec, Pool
from simulation.goodput import Objective
from simulation.kv_network import Port
from simulation.record import Record
from simulation.traces import Trace


def virtual(fleet: Fleet, policy: str, objective: Objective, trace: Trace, seed: int, *, refuses: bool) -> list[Record]:
    """One router of Baton's with that policy. ``refuses``: who cannot be served as promised, as Baton does and Dynamo does not."""
    engine = SimulatedEngineConfig(**fleet.sizes)
    spec = ClusterSpec(
        pools=[Pool(Role.PREFILL, fleet.prefill, engine), Pool(Role.DECODE, fleet.decode, engine)],
        step=fleet.step,
        policy=lambda rng, predictions: make_policy(policy, rng, predictions),
        service=WantedService(ttft_s=objective.ttft_s, tpot_s=objective.tpot_s),
        port=Port(gbps=fleet.link_gbps),
        queue=QueueLimits(refuse_hopeless=refuses, longest_makes_way=refuses),
    )
    return Cluster(spec, seed).replay(trace)
