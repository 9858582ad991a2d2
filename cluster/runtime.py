"""A worker's inside: one engine, one socket, and the legs that routers asked for. No Ray here; ``cluster.actor`` hosts it.

One loop, nine tasks: messages in, engine steps out, a pulse, news between pulses, lost connections, a watch on the engine, its sleep,
KV events in, and out what routers want of them. The worker's role is nowhere in here: it can do every kind of leg. Shutdown order: take
no new leg, let the running ones end or have them moved, stop the tasks, close the socket, stop the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from cluster import utilities
from cluster.adapter_legs import AdapterLegs
from cluster.adapters import Adapters
from cluster.admission import Admission
from cluster.channel import WorkerEnd, gather_quietly
from cluster.deliveries import Deliveries
from cluster.drain import Drain
from cluster.engine_watch import EngineWatch
from cluster.kv_feed import KVFeed
from cluster.kv_publisher import KVPublisher
from cluster.leg import LegHandler
from cluster.leg_book import LegBook
from cluster.leg_spans import LegSpans
from cluster.messages import (
    AbortLegs,
    AddLeg,
    Call,
    Failed,
    Hello,
    LegKind,
    MoveLegs,
    Pulse,
    Refused,
    StepOutputs,
    WantKV,
    decode_from_router,
    worker_mismatch,
)
from cluster.others_told import OthersTold, news_every_s
from cluster.rest import Rest
from cluster.step_fit import StepFit
from cluster.worker_tally import WorkerTally
from core.block_keys import BlockKeys
from core.errors import EngineFailedError
from core.ids import Epoch, LegId, RouterId, WorkerId
from core.metrics.tally import Reading
from core.metrics.words import LegRefusal
from core.step_model import StepModel
from core.worker import EngineFacts, WorkerLoad
from engine.base import Engine, StepReport
from engine.vllm_codec import OutputsCodec, RequestCodec
from kv_transfer.lease import LeaseTable

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from vllm.v1.engine import EngineCoreOutputs

log = logging.getLogger(__name__)

_SETTLES_S = 0.02
"""ZMQ tells of a lost connection a moment before it refuses to send over it."""


class WorkerRuntime:
    """Runs one engine for any number of routers until told to stop or until the engine dies.

    ``admissions`` are asked, kind by kind, whether there is room for a leg; any of them can refuse it. An engine that has legs
    and gives no sign of life for ``stall_timeout_s`` has failed. ``step_prior`` is how long its steps are thought to take before
    any was made; ``block_seed`` that of the keys under which routers are told what is cached.
    """

    def __init__(
        self,
        worker: WorkerId,
        epoch: Epoch,
        engine: Engine,
        end: WorkerEnd,
        handlers: Mapping[LegKind, LegHandler],
        admissions: Mapping[LegKind, Sequence[Admission]],
        leases: LeaseTable,
        pulse_s: float,
        stall_timeout_s: float,
        clock: Callable[[], float],
        step_prior: StepModel | None = None,
        block_seed: bytes = b"",
        spans: LegSpans | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        self.worker = worker
        self.epoch = epoch
        self.address = end.address
        self.ticked_at_s = clock()
        """When this worker's loop last ran: a stuck loop shows as a growing age."""
        self._engine = engine
        self._end = end
        self._handlers = handlers
        self._admissions = admissions
        self._leases = leases
        self._pulse_s = pulse_s
        self._clock = clock
        self._drain: Drain | None = None
        self._rest = Rest(engine, lambda: self._drain is not None and self.idle, self._serve_again)
        self._facts: EngineFacts | None = None
        self._block_seed = block_seed
        self._kv: KVPublisher | None = None
        self._requests = RequestCodec()
        self._outputs = OutputsCodec()
        self._legs = LegBook()
        self._step_fit = StepFit(step_prior)
        self._tally = WorkerTally()
        if adapters is not None:
            adapters.told = self._tally.adapter_loaded
        self._adapter_legs = AdapterLegs(adapters, self._legs, engine, self._refuse)
        self._watch = EngineWatch(engine, lambda: bool(len(self._legs)), stall_timeout_s, pulse_s, clock)
        self._spans = spans or LegSpans(worker)
        self._deliveries = Deliveries(self._legs, handlers, self._spans)
        self._routers: set[RouterId] = set()
        self._others_told = OthersTold()
        self._connection_lost = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self, progress: Callable[[str], None]) -> EngineFacts:
        """Loads the engine. Raises EngineFailedError."""
        facts = self._facts = await self._engine.start(progress)
        keys = BlockKeys(self._block_seed, facts.block_size_tokens)
        self._kv = KVPublisher(KVFeed(self.epoch, keys, facts.num_blocks), self._end)
        return facts

    async def run(self) -> str:
        """Serves until cancelled, or until the engine dies: then every router has been told, and the reason is returned.

        Raises whatever else ends one of the loops: a worker that still answers but hears nothing would be worse than none.
        """
        own = (self._step, self._listen, self._pulse, self._tell_news, self._notice_losses, self._follow_kv_events)
        loops = (*own, self._publisher.run, self._watch.run, self._rest.run)
        tasks = [asyncio.create_task(loop(), name=loop.__qualname__) for loop in loops]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            raise next(iter(done)).exception() or AssertionError("these loops have no end")
        except EngineFailedError as error:
            log.error("worker %s: engine failed: %s", self.worker, error.reason)
            await self._fail_all(error.reason)
            return error.reason
        finally:
            await gather_quietly(*tasks, *self._answering)
            await asyncio.gather(self._watch.close(), self._adapter_legs.close())

    async def close(self) -> None:
        """Closes the socket and stops the engine."""
        self._end.close()
        for leg in tuple(self._spans.legs):
            self._spans.ended(leg, "aborted", "the worker ended")
        await asyncio.gather(self._engine.shutdown(), asyncio.to_thread(self._spans.close))

    def drain(self, timeout_s: float) -> None:
        """Takes no new leg from now on. After ``timeout_s`` the routers are asked, again and again, to move what still runs.

        May be called from any thread, and more than once: the earliest deadline counts.
        """
        now_s = self._clock()
        if self._drain is None:
            log.warning("worker %s drains: no new legs, %.0f s for its %d", self.worker, timeout_s, len(self._legs))
            self._drain = Drain(now_s, timeout_s)
        else:
            self._drain.hasten(now_s, timeout_s)

    def rest(self, asleep: bool) -> None:
        """Puts the engine to sleep, if the worker drains and is idle; or wakes it, and takes legs again. ``asleep`` tells when it is done.

        On the worker's own loop only; may be called again and again.
        """
        self._rest.ask(asleep)

    @property
    def asleep(self) -> bool:
        """Whether the engine sleeps, or is on its way there or back."""
        return self._rest.asleep

    def _serve_again(self) -> None:
        log.info("worker %s takes legs again", self.worker)
        self._drain = None

    @property
    def draining_s(self) -> float | None:
        """How long it has been draining; None: it does not."""
        return None if self._drain is None else self._clock() - self._drain.began_s

    @property
    def load(self) -> WorkerLoad:
        """The newest load."""
        stats = self._engine.stats
        return WorkerLoad(
            running=stats.running,
            waiting=stats.waiting,
            free_blocks=stats.free_blocks,
            num_blocks=stats.num_blocks,
            leased_blocks=self._leases.blocks,
            stranded_blocks=self._leases.stranded_blocks(self._clock()),
            step=self._step_fit.model,
            adapters=self._adapter_legs.load,
        )

    def _pulse_for(self, router: RouterId) -> Pulse:
        return Pulse(self.epoch, self._told_to(router, self.load), self._publisher.sequence)

    def _told_to(self, router: RouterId, load: WorkerLoad) -> WorkerLoad:
        """The load as this router is to know it: it has its own legs in its own books."""
        others = self._legs.others(router)
        self._others_told.told(router, others)
        return msgspec.structs.replace(load, others=others)

    @property
    def idle(self) -> bool:
        """Whether no leg runs and no KV is kept for anybody."""
        return not len(self._legs) and not len(self._leases)

    @property
    def measured(self) -> StepModel | None:
        """How long steps take, as far as this worker has measured that itself."""
        return self._step_fit.measured

    @property
    def received_bytes(self) -> int:
        """KV bytes pulled since the start."""
        return self._engine.stats.received_bytes

    @property
    def computed_prompt_tokens(self) -> int:
        """Prompt tokens computed here since the start."""
        return self._engine.stats.computed_prompt_tokens

    @property
    def readings(self) -> Sequence[Reading]:
        """What Prometheus is told of this worker."""
        return (*self._tally.readings(self.load, self._engine.stats, len(self._legs), self._drain is not None), self._spans.counts())

    def engine_metrics(self) -> Iterable[Metric]:
        """What its engine tells by itself."""
        return self._engine.metrics()

    # -- in ------------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            router, frames = await self._end.receive()
            try:
                await self._handle(router, frames)
            except (msgspec.DecodeError, IndexError) as error:
                log.warning("worker %s: dropped a message from %s that is not one of ours: %s", self.worker, router, error)
            except EngineFailedError as error:
                log.error("worker %s: %s", self.worker, error.reason)  # run() sees the same and ends the worker
            except Exception:  # whatever one message does, the others must be heard
                log.exception("worker %s: could not handle a message from %s", self.worker, router)

    async def _handle(self, router: RouterId, frames: list[bytes]) -> None:
        message = decode_from_router(frames[0])
        self._routers.add(router)
        if isinstance(message, AddLeg):
            await self._add(router, message, frames[1:])
        elif isinstance(message, AbortLegs):
            await self._abort(message.legs)
        elif isinstance(message, Call):
            self._apart(self._answer(router, message))  # a slow utility must not keep legs waiting
        elif isinstance(message, WantKV):
            self._apart(self._publisher.answer(router, message.number))  # nor a large cache
        elif isinstance(message, Hello):
            self._legs.queued(router, message.queued_tokens)
            await self._end.send(router, self._pulse_for(router))

    async def _add(self, router: RouterId, add: AddLeg, frames: list[bytes]) -> None:
        self._spans.came(router, add)
        if reason := worker_mismatch(add.epoch, self.epoch, self.worker) or ("it is draining" if self._drain else None):
            await self._refuse(router, Refused(add.leg, self.epoch, reason), LegRefusal.GOING)
            return
        if reason := self._no_room(add):
            await self._refuse(router, Refused(add.leg, self.epoch, reason, busy=True), LegRefusal.NO_ROOM)
            return
        try:
            request = self._handlers[add.kind].engine_request(add, self._requests.decode(frames))
        except Exception as error:  # vLLM's decoder raises anything on what it cannot read; without an answer the client waits for ever
            log.warning("worker %s: cannot read the request of leg %s: %r", self.worker, add.leg, error)
            self._spans.ended(add.leg, "failed", "its request cannot be read")
            await self._end.send(router, Failed(self.epoch, [add.leg], f"its request cannot be read: {error!r}"))
            return
        if (headers := self._spans.admitted(add.leg)) is not None:
            request = msgspec.structs.replace(request, trace_headers=headers)
        if request.lora_request is not None:
            await self._adapter_legs.add(router, add, request)
            return
        self._legs.enter(router, add)
        await self._engine.add(request)

    async def _refuse(self, router: RouterId, refused: Refused, why: LegRefusal) -> None:
        self._tally.refused(why)
        self._spans.ended(refused.leg, "refused", refused.reason)
        await self._end.send(router, refused)

    def _no_room(self, add: AddLeg) -> str | None:
        assert self._facts is not None
        room = self._legs.room(self._facts, self.load)
        return next((reason for admission in self._admissions[add.kind] if (reason := admission.refusal(add, room))), None)

    async def _abort(self, legs: list[LegId]) -> None:
        for leg in legs:
            self._legs.end(leg)
            self._spans.ended(leg, "aborted")
        await self._engine.abort(legs)
        await self._engine.release(legs)

    def _apart(self, work: Coroutine[Any, Any, None]) -> None:
        """On a task of its own, which ends with the worker's others."""
        task = asyncio.create_task(work)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, router: RouterId, call: Call) -> None:
        await self._end.send(router, await utilities.answer(self._engine, call))

    # -- out -----------------------------------------------------------------------------------------------------------

    async def _step(self) -> None:
        while True:
            outputs, report = await self._engine.step()
            await self._deliver(outputs, report)

    async def _deliver(self, outputs: EngineCoreOutputs, report: StepReport) -> None:
        self.ticked_at_s = self._clock()
        self._watch.lived()
        for sample in report.samples:
            self._step_fit.observe(sample.work, sample.seconds, self.ticked_at_s)
        self._tally.stepped(report)
        by_router = self._deliveries.of_step(outputs, report)
        load = self.load
        for router, parts in by_router.items():
            message = StepOutputs(self.epoch, self._told_to(router, load), parts.handles, parts.transfers, parts.queue_s)
            if not await self._end.send(router, message, self._outputs.encode(parts.outputs)):
                await self._router_gone(router)

    async def _pulse(self) -> None:
        while True:
            self.ticked_at_s = self._clock()
            for router in tuple(self._routers):
                if not await self._end.send(router, self._pulse_for(router)):
                    await self._router_gone(router)
            if self._drain is not None and self._drain.is_time_to_ask(self.ticked_at_s):
                await self._have_moved(self._legs.by_owner())
            self._connection_lost.clear()
            try:
                async with asyncio.timeout(self._pulse_s):
                    await self._connection_lost.wait()
            except TimeoutError:
                pass

    async def _tell_news(self) -> None:
        """Of other routers' legs, to those who would hear of them with the next pulse only."""
        while True:
            await asyncio.sleep(news_every_s(self._pulse_s, len(self._routers)))
            for router in tuple(self._routers):
                if not self._others_told.is_news(router, self._legs.others(router)):
                    continue
                if not await self._end.send(router, self._pulse_for(router)):
                    await self._router_gone(router)

    async def _notice_losses(self) -> None:
        """Has the next pulse sent at once, which finds out whose connection it was."""
        while True:
            await self._end.lost()
            await asyncio.sleep(_SETTLES_S)
            self._connection_lost.set()

    async def _have_moved(self, legs: Mapping[RouterId, list[LegId]]) -> None:
        """Asks the routers to continue their legs elsewhere. They abort them here; until then each runs on."""
        for router, theirs in legs.items():
            log.info("worker %s: asking %s to move %d legs", self.worker, router, len(theirs))
            if not await self._end.send(router, MoveLegs(self.epoch, theirs, "the worker drains")):
                await self._router_gone(router)

    async def _follow_kv_events(self) -> None:
        """Reads what the engine tells of its cache, whether a router wants it or not: nothing may pile up."""
        while True:
            self._publisher.heard(await self._engine.kv_events())

    @property
    def _publisher(self) -> KVPublisher:
        assert self._kv is not None
        return self._kv

    async def _router_gone(self, router: RouterId) -> None:
        """Nobody is left to read this router's legs or to use its kept KV: all of it is freed now."""
        self._routers.discard(router)
        self._others_told.forget(router)
        self._spans.router_gone(router)
        self._deliveries.router_gone(router)
        self._publisher.leave(router)
        self._legs.queued(router, 0)
        legs = self._legs.of_owner(router) + self._leases.of_owner(router)
        if legs:
            log.warning("worker %s: router %s is gone; ending its %d legs", self.worker, router, len(legs))
            await self._abort(legs)

    async def _fail_all(self, reason: str) -> None:
        for router, theirs in self._legs.by_owner().items():
            await self._end.send(router, Failed(self.epoch, theirs, reason))
            for leg in theirs:
                self._spans.ended(leg, "failed", reason)
        self._legs.clear()
