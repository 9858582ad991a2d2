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
from simulation.router import ROUTER_GONE, SimRouter
from simulation.stand_ins import UncodedOutputs, UncodedRequests
from simulation.traces import Trace, TraceRequest
from simulation.worker import Beats, SimWorker


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
    headroom_tokens: int = 256
    """``PoolConfig.headroom_tokens``."""

    @property
    def admissions(self) -> Mapping[LegKind, Sequence[Admission]]:
        """As ``deploy.worker`` composes them."""
        prompts, answers = PrefillAdmission(self.max_prefill_tokens, self.headroom_tokens), DecodeAdmission(self.headroom_tokens)
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
    give_up_after_s: float = 600.0
    """``RetryConfig.give_up_after_s``."""
    request_timeout_s: float | None = None
    """``RouterConfig.request_timeout_s``."""
    lost_after_s: float = 1.0
    """``RouterConfig.worker_timeout_s``: a worker that is silent for so long is lost to its routers."""
    pull_timeout_s: float = 10.0
    """``KVTransferConfig.pull_timeout_s``."""
    first_from_decode: bool = False
    """The first token is the decode worker's, behind the transfer, as other systems have it; prefill's is thrown away."""

    def step_of(self, role: Role) -> StepModel:
        """What is known of steps of workers with that role."""
        return next((pool.step for pool in self.pools if pool.role is role and pool.step is not None), self.step)

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
            headroom_tokens={pool.role: pool.headroom_tokens for pool in self.pools},
            give_up_after_s=self.give_up_after_s,
            request_timeout_s=self.request_timeout_s,
        )


class Cluster:
    """Same specification, seed and trace: same result, to the last bit. ``replay`` once."""

    def __init__(self, spec: ClusterSpec, seed: int) -> None:
        self.spec = spec
        self.clock = VirtualClock()
        self._rng = random.Random(seed)
        self.network = KVNetwork(self.clock, spec.port, spec.message_s)
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
        records, total = self.records, len(trace.requests)
        arrivals = enumerate(trace.requests)

        def next_one() -> None:
            number, request = next(arrivals, (0, None))
            if request is not None:
                # At its moment it is the first, as if all had been entered in the clock before anything else. But they may be millions.
                self.clock.at(request.arrival_s, lambda: arrive(f"r{number}", request), ahead=True)

        def arrive(name: str, request: TraceRequest) -> None:
            serving = self.routers if all(router.is_up for router in self.routers) else [each for each in self.routers if each.is_up]
            records.append(serving[len(records) % len(serving)].submit(name, request) if serving else self._unserved(request))
            next_one()

        next_one()
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
            self.network,
            pool.admissions,
            step,
            self.spec.beats,
            self.spec.pull_timeout_s,
        )
        worker.pulls.peers = self._peers
        self._peers[name] = worker.pulls
        return worker

    def end_router(self, number: int) -> None:
        """One of them is gone; the others get what comes."""
        self.routers[number].go_down()

    def begin_router(self, number: int) -> None:
        """Another one takes the place of one that has ended. It knows nothing of what was."""
        self._dispatch(self.routers[number], RouterId(f"router-{number}"))
        self.routers[number].is_up = True

    def _unserved(self, request: TraceRequest) -> Record:
        record = Record(request, self.clock.now())
        record.failure, record.ended_s = ROUTER_GONE, record.arrival_s
        return record

    def _router(self, name: RouterId) -> SimRouter:
        router = SimRouter(self.clock, self.spec.max_tokens, self.spec.service, first_from_decode=self.spec.first_from_decode)
        self._dispatch(router, name)
        return router

    def _dispatch(self, router: SimRouter, name: RouterId) -> None:
        spec, clock = self.spec, self.clock
        predictor = Predictor(
            {role: spec.step_of(role) for role in Role},
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
            clock.later(spec.beats.pulse_s, lambda: self._greet(name, router, dispatcher))

    def _greet(self, name: RouterId, router: SimRouter, dispatcher: Dispatcher) -> None:
        """As ``router.link`` does at every beat, as long as that router lives."""
        if not router.is_up or router.dispatcher is not dispatcher:
            return
        for worker in self.workers.values():
            worker.links[name].send(dispatcher.hello())
        self.clock.later(self.spec.beats.pulse_s, lambda: self._greet(name, router, dispatcher))

    def _link(self, name: RouterId, router: SimRouter, worker: SimWorker) -> None:
        """``name`` is the router's."""
        dispatcher = router.dispatcher
        link = SimLink(worker.card, name, self.clock, self.spec.message_s, worker.hear, cast(Any, dispatcher.received))
        worker.links[name] = link
        dispatcher.link_opened(cast(WorkerLink, link))
