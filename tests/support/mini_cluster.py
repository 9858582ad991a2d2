"""A whole data plane in one process: simulated engines in real worker runtimes, real sockets, real routers; no Ray, no controller."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason

from cluster.channel import ChannelKeys, WorkerEnd
from cluster.coming import Coming
from cluster.leg_spans import LegSpans
from cluster.membership import Membership
from cluster.messages import LegKind
from cluster.runtime import WorkerRuntime
from cluster.span_export import SpanExport
from cluster.whole import WholeLegs
from core.adapter import Adapter
from core.block_keys import seed_of
from core.config import BatonConfig
from core.ids import Epoch, RequestId, RouterId, WorkerId
from core.lora_config import LoraConfig
from core.pool_config import PoolConfig
from core.worker import Role, WorkerCard, WorkerState
from decode_workers.decode import DecodeLegs
from deploy.worker import adapters, admissions
from engine.sim_config import SimulatedEngineConfig
from engine.sim_timing import ConstantTime
from engine.simulated import SimulatedEngine
from engine.vllm_lora import named_lora
from prefill_workers.prefill import PrefillLegs
from router.balancer.registry import make_balancer
from router.dispatcher import Dispatcher
from router.foresight import Foresight
from router.limits import Limits
from router.members import Members
from router.retry import Retry
from router.timeline import Timeline
from tests.contract.engine_contract import ask
from tests.support.eventually import assert_eventually

HOST = "127.0.0.1"
SILENCE_S = 10.0
LEASE_S = 60.0
"""Longer than any test: nothing is ever freed by waiting."""
BEAT_S = 0.05


ROOMY = PoolConfig(headroom_tokens=0, max_prefill_tokens=1_000_000)
"""Workers that refuse only what cannot be held at all; tests of admission have narrower ones."""


class Gate:
    """An engine's sleep, which a test can shut (steps and transfers under way do not end) or break (the engine dies)."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._broken = False

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def break_engine(self) -> None:
        """The next step, or the one under way, fails."""
        self._broken = True
        self._open.set()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.passed()

    async def passed(self) -> None:
        """Returns at once while it is open."""
        await self._open.wait()
        if self._broken:
            raise RuntimeError("broken on purpose")


class GatedEngine(SimulatedEngine):
    """An engine that answers calls between its steps, as vLLM's does: while the gate is shut, nothing."""

    def __init__(self, config: SimulatedEngineConfig, gate: Gate) -> None:
        super().__init__(config, sleep=gate.sleep)
        self._gate = gate

    async def utility(self, method: str, *args: Any) -> Any:
        await self._gate.passed()
        return await super().utility(method, *args)


class MiniWorker:
    """One worker: engine, runtime and card. ``alive`` until killed or its engine has failed."""

    def __init__(
        self,
        name: str,
        role: Role,
        epoch: int,
        router_keys: ChannelKeys,
        config: SimulatedEngineConfig,
        pool: PoolConfig = ROOMY,
        silence_s: float = SILENCE_S,
        pulse_s: float = BEAT_S,
        spans: SpanExport | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        self.name, self.role, self.epoch = WorkerId(name), role, Epoch(epoch)
        self.gate = Gate()
        self.ahead_s = 0.0
        """How far the worker's clock is put forward: what it does in its first seconds teaches it nothing."""
        self.engine = GatedEngine(config, self.gate)
        self._keys = ChannelKeys.make()
        end = WorkerEnd(HOST, self._keys, router_keys.public, silence_s)
        prefill = PrefillLegs(self.name, self.epoch, LEASE_S, time.monotonic)
        self.leases = prefill.leases
        handlers = {LegKind.PREFILL: prefill, LegKind.DECODE: DecodeLegs(), LegKind.WHOLE: WholeLegs()}
        self.runtime = WorkerRuntime(
            *(self.name, self.epoch, self.engine, end, handlers, admissions(pool), prefill.leases, pulse_s, pool.stall_timeout_s),
            clock=lambda: time.monotonic() + self.ahead_s,
            block_seed=seed_of(router_keys.secret),
            spans=LegSpans(self.name, spans, flush_timeout_s=10.0),
            adapters=None if lora is None else adapters(BatonConfig(model="demo", lora=lora), self.engine),
        )
        self.alive = True
        self._closed = False

    async def start(self) -> None:
        self.facts = await self.runtime.start(lambda phase: None)
        self.running = asyncio.create_task(self._run())

    async def _run(self) -> str:
        """As the actor does: a worker whose engine has failed closes its socket."""
        reason = await self.runtime.run()
        self.alive, self._closed = False, True
        await self.runtime.close()
        return reason

    @property
    def card(self) -> WorkerCard:
        return WorkerCard(self.name, self.epoch, self.role, WorkerState.READY, self.runtime.address, self._keys.public, self.facts)

    def is_free(self) -> bool:
        """Whether the worker holds nothing for anybody."""
        stats = self.engine.stats
        return self.runtime.idle and (stats.running, stats.waiting, stats.free_blocks) == (0, 0, self.facts.num_blocks)

    async def kill(self) -> None:
        """Ends the worker as a killed process ends: in the middle of everything, without a word."""
        self.alive = False
        await self.close()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.runtime.close()


class Directory:
    """What the controller would tell: the present cards."""

    def __init__(self) -> None:
        self.keys = ChannelKeys.make()
        self._membership = Membership(0, [], self.keys)
        self._changed = asyncio.Event()

    def tell(self, cards: list[WorkerCard], coming: Coming = Coming()) -> None:  # noqa: B008 - frozen
        self._membership = Membership(self._membership.version + 1, cards, self.keys, coming)
        self._changed.set()
        self._changed = asyncio.Event()

    async def fetch(self, known_version: int) -> Membership | None:
        while self._membership.version == known_version:
            await self._changed.wait()
        return self._membership


SPLITS = "least_outstanding_tokens"
"""A policy that hands every request over; ``baton`` does where that is predicted to be better."""


class MiniRouter:
    """One router and everything it has told its clients."""

    def __init__(
        self,
        name: str,
        directory: Directory,
        seed: int,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        retry: Retry = Retry(),  # noqa: B008 - frozen
        policy: str = SPLITS,
    ) -> None:
        self.outputs: dict[str, list[EngineCoreOutput]] = {}
        self.on_output: Callable[[EngineCoreOutput], None] = lambda output: None
        self.foresight = Foresight()
        balancer = make_balancer(policy, random.Random(seed), self.foresight.predictor)
        self.dispatcher = Dispatcher(balancer, self._deliver, time.monotonic, limits=limits, retry=retry, foresight=self.foresight)
        self.members = Members(RouterId(name), self.dispatcher, directory.fetch, BEAT_S, SILENCE_S)
        self.directory = directory
        self.alive = True

    def _deliver(self, outputs: list[EngineCoreOutput]) -> None:
        for output in outputs:
            self.outputs.setdefault(output.request_id, []).append(output)
            self.on_output(output)

    def send(
        self, name: str, prompt: list[int], max_tokens: int, client: str | None = None, adapter: str | None = None, **sampling: Any
    ) -> None:
        """A client's request."""
        request: EngineCoreRequest = ask(name, prompt, max_tokens, **sampling)
        request.lora_request = None if adapter is None else named_lora(Adapter(adapter, adapter))
        request.external_req_id = client or f"client-{name}"
        self.dispatcher.add(request)

    def cancel(self, name: str) -> None:
        self.dispatcher.abort([RequestId(name)])

    def tokens(self, name: str) -> list[int]:
        return [token for output in self.outputs.get(name, ()) for token in output.new_token_ids]

    def ends(self, name: str) -> list[FinishReason]:
        """The finish reasons a client was told: one, at the end, is the rule."""
        return [output.finish_reason for output in self.outputs.get(name, ()) if output.finish_reason is not None]

    def timeline(self, name: str) -> Timeline:
        [timeline] = self.dispatcher.timelines.of(f"client-{name}")
        return timeline

    async def finished(self, *names: str, limit_s: float = 20.0) -> None:
        await assert_eventually(lambda: all(self.ends(name) for name in names), limit_s, f"{names} finished")
        for name in names:
            assert [output.finished for output in self.outputs[name]].index(True) == len(self.outputs[name]) - 1

    def has_nothing(self) -> bool:
        """Whether no request is under way and no leg is expected to end."""
        return len(self.dispatcher) == self.dispatcher.outstanding_legs == 0

    async def vanish(self) -> None:
        """Ends the router as a killed process ends: nothing is aborted, the sockets are gone."""
        self.alive = False
        await self.members.close()


class MiniCluster:
    """Workers ``prefill-0`` ..., ``decode-0`` ..., and routers that know them all."""

    def __init__(self) -> None:
        self.directory = Directory()
        self.workers: dict[str, MiniWorker] = {}
        self.routers: list[MiniRouter] = []
        self.coming = Coming()
        """What routers are told of workers that are not there yet."""
        self.spans: Callable[[str], SpanExport | None] = lambda worker: None
        """What a worker that is added sends the spans of traced legs with; it closes that at its end."""
        self.lora: LoraConfig | None = None
        """The adapters of workers that are added."""
        self._ended: list[MiniWorker] = []

    async def start(
        self,
        prefill: int = 2,
        decode: int = 2,
        routers: int = 1,
        *,
        pool: PoolConfig = ROOMY,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        retry: Retry = Retry(),  # noqa: B008 - frozen
        policy: str = SPLITS,
        **config: Any,
    ) -> None:
        for role, count in ((Role.PREFILL, prefill), (Role.DECODE, decode)):
            for number in range(count):
                await self.add_worker(f"{role}-{number}", role, pool=pool, **config)
        self.tell()
        self.routers = [MiniRouter(f"router-{number}", self.directory, number, limits, retry, policy) for number in range(routers)]
        await self.all_up()

    async def add_worker(self, name: str, role: Role, epoch: int = 1, pool: PoolConfig = ROOMY, **config: Any) -> MiniWorker:
        """Starts a worker, in place of the one with that name; routers are not told yet."""
        settings: dict[str, Any] = {
            "num_blocks": 256,
            "vocab_size": 300,
            "timing": ConstantTime(0.001),
            "link_answer_s": 0.3,
            "lease_s": LEASE_S,
        }
        engine = SimulatedEngineConfig(**(settings | config))
        worker = MiniWorker(name, role, epoch, self.directory.keys, engine, pool, spans=self.spans(name), lora=self.lora)
        await worker.start()
        if name in self.workers:
            self._ended.append(self.workers[name])
        self.workers[name] = worker
        return worker

    def tell(self, **states: WorkerState) -> None:
        """Tells the routers who is there; ``prefill_0=WorkerState.DRAINING`` changes a card's state."""
        cards = [msgspec.structs.replace(w.card, state=states.get(w.name.replace("-", "_"), w.card.state)) for w in self.alive]
        self.directory.tell(cards, self.coming)

    @property
    def alive(self) -> list[MiniWorker]:
        return [worker for worker in self.workers.values() if worker.alive]

    @property
    def router(self) -> MiniRouter:
        return self.routers[0]

    def worker(self, name: str | None) -> MiniWorker:
        assert name is not None
        return self.workers[name]

    async def all_up(self) -> None:
        """Waits until every router reaches every worker in its present life."""
        lives = {worker.name: worker.epoch for worker in self.alive}
        for router in self.routers:
            await assert_eventually(partial(self._reaches, router, lives), 10.0, "all workers up")

    def _reaches(self, router: MiniRouter, lives: dict[WorkerId, Epoch]) -> bool:
        return {name: worker.card.epoch for name, worker in router.dispatcher.view().items()} == lives

    async def nothing_left(self, limit_s: float = 10.0) -> None:
        """No request, no leg, no block, no lease, anywhere."""
        for router in self.routers:
            if router.alive:
                await assert_eventually(router.has_nothing, limit_s, "the routers have no request")
        await self.workers_free(limit_s)

    async def workers_free(self, limit_s: float = 10.0) -> None:
        for worker in self.alive:
            await assert_eventually(worker.is_free, limit_s, f"{worker.name} is free: {worker.engine.stats}")
            assert worker.leases.blocks == 0

    async def close(self) -> None:
        """Closes everything; no task may be left behind."""
        for router in self.routers:
            await router.vanish()
        for worker in [*self._ended, *self.workers.values()]:
            await worker.close()
        await assert_eventually(_no_other_task, 5.0, "no task left")


def _no_other_task() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}
