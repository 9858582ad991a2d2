"""A simulated cluster put together, and a trace replayed on it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from cluster.admission import Admission
from cluster.coming import Coming
from cluster.messages import LegKind
from core.ids import Epoch, RouterId, WorkerId
from core.step_model import StepModel
from core.worker import Role, WorkerCard, WorkerState
from decode_workers.admission import DecodeAdmission
from engine.sim_config import SimulatedEngineConfig
from engine.sim_leap import StepTime
from engine.sim_virtual import VirtualEngine
from prefill_workers.admission import PrefillAdmission
from router.balancer.base import Policy, Predictions
from router.balancer.registry import balancer_of
from router.dispatcher import Dispatcher
from router.foresight import Foresight
from router.limits import Limits
from router.link import WorkerLink
from router.predict.links import LinkModel
from router.predict.predictor import Predictor
from router.queue import QueueLimits
from router.service import ORDINARY, WantedService
from simulation.clock import VirtualClock
from simulation.kv_network import KVNetwork, Port
from simulation.link import SimLink
from simulation.prefixes import GivenPrefixes
from simulation.pulls import Pulls
from simulation.record import Record
from simulation.router import SimRouter
from simulation.stand_ins import UncodedOutputs, UncodedRequests
from simulation.traces import Trace
from simulation.worker import Beats, SimWorker

_HEADROOM_TOKENS = 256
"""``PoolConfig.headroom_tokens``."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Workers that are alike."""

    role: Role
    count: int
    engine: SimulatedEngineConfig
    max_prefill_tokens: int | None = None
    """``PoolConfig.max_prefill_tokens``."""
    step: StepModel | None = None
    """How long their steps take, where that differs from the cluster's."""
    timing: StepTime | None = None
    """The same where six coefficients are not exact enough; the pool's ``step`` is then what workers and routers take it for."""

    @property
    def admissions(self) -> Mapping[LegKind, Sequence[Admission]]:
        """As ``deploy.worker`` composes them."""
        prompts, answers = PrefillAdmission(self.max_prefill_tokens, _HEADROOM_TOKENS), DecodeAdmission(_HEADROOM_TOKENS)
        return {LegKind.PREFILL: [prompts], LegKind.DECODE: [prompts, answers], LegKind.WHOLE: [prompts, answers]}


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """All that a simulation depends on, beside its trace and its seed. Raises ValueError for two pools of one role."""

    pools: Sequence[Pool]
    step: StepModel
    """How long every worker's steps take, but for pools that say otherwise."""
    policy: Callable[[random.Random, Predictions], Policy]
    """Makes one router's policy."""
    service: WantedService = ORDINARY
    """What every request is promised."""
    max_tokens: int = 2048
    """What clients allow an answer to be long; see ``SimRouter``."""
    routers: int = 1
    port: Port = field(default_factory=Port)
    message_s: float = 0.0005
    """From router to worker, or back, or between workers."""
    beats: Beats = field(default_factory=Beats)
    queue: QueueLimits = field(default_factory=QueueLimits)
    """Of all routers together."""
    first_from_decode: bool = False
    """The first token is the decode worker's, behind the transfer, as other systems have it; prefill's is thrown away."""

    def __post_init__(self) -> None:
        if len({pool.role for pool in self.pools}) != len(self.pools):
            raise ValueError("there can be one pool of each role")

    @property
    def limits(self) -> Limits:
        """Each router's."""
        queue = replace(self.queue, max_requests=self.queue.max_requests // self.routers, max_tokens=self.queue.max_tokens // self.routers)
        return Limits(
            queue=queue,
            max_prefill_tokens={pool.role: pool.max_prefill_tokens for pool in self.pools},
            headroom_tokens={pool.role: _HEADROOM_TOKENS for pool in self.pools},
        )


class Cluster:
    """Same specification, seed and trace: same result, to the last bit. ``replay`` once."""

    def __init__(self, spec: ClusterSpec, seed: int) -> None:
        self.spec = spec
        self.clock = VirtualClock()
        self._rng = random.Random(seed)
        self._network = KVNetwork(self.clock, spec.port, spec.message_s)
        self.records: list[Record] = []
        """Of what has been offered so far."""
        self._peers: dict[WorkerId, Pulls] = {}
        made = [self._worker(pool, WorkerId(f"{pool.role}-{number}")) for pool in spec.pools for number in range(pool.count)]
        self.workers = {worker.card.worker: worker for worker in made}
        self.routers = [self._router(RouterId(f"router-{number}")) for number in range(spec.routers)]
        for index, worker in enumerate(made):
            worker.start(spec.beats.pulse_s * index / len(made))  # not all at once

    def replay(self, trace: Trace) -> list[Record]:
        """Offers every request at its time to a router, in turns, and runs until all have ended. Records in order of arrival."""
        records = self.records
        for number, request in enumerate(trace.requests):
            router = self.routers[number % len(self.routers)]

            def arrive(name: str = f"r{number}", router: SimRouter = router, request: Any = request) -> None:
                records.append(router.submit(name, request))

            self.clock.at(request.arrival_s, arrive)
        total = len(trace.requests)
        self.clock.run(lambda: len(records) == total and not any(router.open_requests for router in self.routers))
        return records

    def settle(self, seconds: float) -> None:
        """Lets what is on its way arrive."""
        until_s = self.clock.now() + seconds
        self.clock.run(lambda: self.clock.now() >= until_s)

    def _worker(self, pool: Pool, name: WorkerId) -> SimWorker:
        step = pool.step or self.spec.step
        worker = SimWorker(
            WorkerCard(name, Epoch(1), pool.role, WorkerState.READY, "", "", pool.engine.facts),
            VirtualEngine(pool.engine, pool.timing or step),
            self.clock,
            self._network,
            pool.admissions,
            step,
            self.spec.beats,
        )
        worker.pulls.peers = self._peers
        self._peers[name] = worker.pulls
        return worker

    def _router(self, name: RouterId) -> SimRouter:
        spec, clock = self.spec, self.clock
        router = SimRouter(clock, spec.max_tokens, spec.service, first_from_decode=spec.first_from_decode)
        predictor = Predictor(
            {**dict.fromkeys(Role, spec.step), **{pool.role: pool.step for pool in spec.pools if pool.step}},
            LinkModel(spec.port.latency_s, spec.port.gbps * 1e9 / 8),
            spec.pools[0].engine.kv_bytes_per_token,
        )
        rng = random.Random(self._rng.random())
        dispatcher = Dispatcher(
            balancer_of(spec.policy(rng, predictor), rng, predictor),
            router.deliver,
            clock.now,
            limits=spec.limits,
            later=clock.later,
            foresight=Foresight("simulated", predictor, GivenPrefixes()),
            requests_codec=UncodedRequests(),
            outputs_codec=UncodedOutputs(),
        )
        router.dispatcher = dispatcher
        dispatcher.awaits(Coming(on_demand=True))  # as a controller that scales has it
        for worker in self.workers.values():
            self._link(name, router, worker)
        if spec.routers > 1:  # what waits with one is told to others: alone, none of these messages has any use
            clock.later(spec.beats.pulse_s, lambda: self._greet(name, dispatcher))
        return router

    def _greet(self, name: RouterId, dispatcher: Dispatcher) -> None:
        """As ``router.link`` does at every beat."""
        for worker in self.workers.values():
            worker.links[name].send(dispatcher.hello())
        self.clock.later(self.spec.beats.pulse_s, lambda: self._greet(name, dispatcher))

    def _link(self, name: RouterId, router: SimRouter, worker: SimWorker) -> None:
        """``name`` is the router's."""
        dispatcher = router.dispatcher
        link = SimLink(worker.card, name, self.clock, self.spec.message_s, worker.hear, cast(Any, dispatcher.received))
        worker.links[name] = link
        dispatcher.link_opened(cast(WorkerLink, link))
