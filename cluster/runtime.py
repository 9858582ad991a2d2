"""A worker's inside: one engine, one socket, and the legs that routers asked for. No Ray here; ``cluster.actor`` hosts it.

One loop, four tasks: messages in, engine steps out, a pulse, KV events. Shutdown order: take no new leg, let or make the
running ones end, stop the tasks, close the socket, stop the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from cluster.channel import WorkerEnd, gather_quietly
from cluster.leg import LegHandler
from cluster.messages import (
    AbortLegs,
    AddLeg,
    Answer,
    Call,
    Failed,
    Hello,
    LegKind,
    Pulse,
    Refused,
    StepOutputs,
    decode_from_router,
    worker_mismatch,
)
from core.errors import EngineFailedError
from core.handle import KVHandle
from core.ids import Epoch, LegId, RouterId, WorkerId
from core.worker import EngineFacts, WorkerLoad
from engine.base import Engine, StepReport, Transfer
from engine.vllm_codec import OutputsCodec, RequestCodec
from engine.vllm_outputs import take_queue_seconds
from kv_transfer.lease import LeaseTable

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs

log = logging.getLogger(__name__)

CALLABLE_UTILITIES = frozenset({"get_supported_tasks", "reset_prefix_cache", "is_sleeping", "list_loras"})
"""Engine utilities a router may call. A list, not a ban: utilities can load code, stop engines and write files."""


class WorkerRuntime:
    """Runs one engine for any number of routers until told to stop or until the engine dies."""

    def __init__(
        self,
        worker: WorkerId,
        epoch: Epoch,
        engine: Engine,
        end: WorkerEnd,
        handlers: Mapping[LegKind, LegHandler],
        leases: LeaseTable,
        pulse_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.worker = worker
        self.epoch = epoch
        self.address = end.address
        self.draining = False
        self.ticked_at_s = clock()
        """When this worker's loop last ran: a stuck loop shows as a growing age."""
        self._engine = engine
        self._end = end
        self._handlers = handlers
        self._leases = leases
        self._pulse_s = pulse_s
        self._clock = clock
        self._requests = RequestCodec()
        self._outputs = OutputsCodec()
        self._owners: dict[LegId, RouterId] = {}
        self._kinds: dict[LegId, LegKind] = {}
        self._routers: set[RouterId] = set()
        self._transfers: dict[RouterId, list[Transfer]] = defaultdict(list)
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self, progress: Callable[[str], None]) -> EngineFacts:
        """Loads the engine. Raises EngineFailedError."""
        return await self._engine.start(progress)

    async def run(self) -> str:
        """Serves until cancelled, or until the engine dies: then every router has been told, and the reason is returned.

        Raises whatever else ends one of the loops: a worker that still answers but hears nothing would be worse than none.
        """
        loops = (self._step, self._listen, self._pulse, self._follow_kv_events)
        tasks = [asyncio.create_task(loop(), name=loop.__name__) for loop in loops]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            raise next(iter(done)).exception() or AssertionError("these loops have no end")
        except EngineFailedError as error:
            log.error("worker %s: engine failed: %s", self.worker, error.reason)
            await self._fail_all(error.reason)
            return error.reason
        finally:
            await gather_quietly(*tasks, *self._answering)

    async def close(self) -> None:
        """Closes the socket and stops the engine."""
        self._end.close()
        await self._engine.shutdown()

    @property
    def load(self) -> WorkerLoad:
        """The newest load."""
        stats = self._engine.stats
        return WorkerLoad(stats.running, stats.waiting, stats.free_blocks, stats.num_blocks, self._leases.blocks)

    @property
    def idle(self) -> bool:
        """Whether no leg runs and no KV is kept for anybody."""
        return not self._owners and not len(self._leases)

    @property
    def received_bytes(self) -> int:
        """KV bytes pulled since the start."""
        return self._engine.stats.received_bytes

    @property
    def computed_prompt_tokens(self) -> int:
        """Prompt tokens computed here since the start."""
        return self._engine.stats.computed_prompt_tokens

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
            task = asyncio.create_task(self._answer(router, message))  # a slow utility must not keep legs waiting
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif isinstance(message, Hello):
            await self._end.send(router, Pulse(self.epoch, self.load))

    async def _add(self, router: RouterId, add: AddLeg, frames: list[bytes]) -> None:
        # A request whose client has tokens already is not a new one: it was planned before anybody knew of the draining.
        draining = "it is draining" if self.draining and not add.emitted else None
        reason = worker_mismatch(add.epoch, self.epoch, self.worker) or draining
        if reason:
            await self._end.send(router, Refused(add.leg, self.epoch, reason))
            return
        try:
            request = self._handlers[add.kind].engine_request(add, self._requests.decode(frames))
        except Exception as error:  # vLLM's decoder raises anything on what it cannot read; without an answer the client waits for ever
            log.warning("worker %s: cannot read the request of leg %s: %r", self.worker, add.leg, error)
            await self._end.send(router, Failed(self.epoch, [add.leg], f"its request cannot be read: {error!r}"))
            return
        self._owners[add.leg] = router
        self._kinds[add.leg] = add.kind
        await self._engine.add(request)

    async def _abort(self, legs: list[LegId]) -> None:
        for leg in legs:
            self._forget(leg)
        await self._engine.abort(legs)
        await self._engine.release(legs)

    async def _answer(self, router: RouterId, call: Call) -> None:
        await self._end.send(router, await self._call(call))

    async def _call(self, call: Call) -> Answer:
        if call.method not in CALLABLE_UTILITIES:
            return Answer(call.number, error=f"{call.method} cannot be called from a router")
        try:
            return Answer(call.number, await self._engine.utility(call.method, *call.args))
        except EngineFailedError as error:
            return Answer(call.number, error=error.reason)

    # -- out -----------------------------------------------------------------------------------------------------------

    async def _step(self) -> None:
        while True:
            outputs, report = await self._engine.step()
            await self._deliver(outputs, report)

    async def _deliver(self, outputs: EngineCoreOutputs, report: StepReport) -> None:
        self.ticked_at_s = self._clock()
        for transfer in report.transfers:
            if owner := self._owners.get(transfer.leg):
                self._transfers[owner].append(transfer)
        by_router: dict[RouterId, list[EngineCoreOutput]] = defaultdict(list)
        handles: dict[RouterId, dict[LegId, KVHandle]] = defaultdict(dict)
        for output in outputs.outputs:
            leg = LegId(output.request_id)
            owner = self._owners.get(leg)
            if owner is None:
                continue  # aborted while the step ran
            by_router[owner].append(output)
            if output.finish_reason is not None:
                if handle := self._handlers[self._kinds[leg]].finished(owner, output):
                    handles[owner][leg] = handle
                output.kv_transfer_params = None
                self._forget(leg)
        for handler in self._handlers.values():  # after the outputs: a lease may end in the step it began in
            handler.stepped(report)
        load = self.load
        for router, theirs in by_router.items():
            message = StepOutputs(self.epoch, load, handles[router], self._transfers.pop(router, []), take_queue_seconds(theirs))
            if not await self._end.send(router, message, self._outputs.encode(theirs)):
                await self._router_gone(router)

    async def _pulse(self) -> None:
        while True:
            self.ticked_at_s = self._clock()
            for router in tuple(self._routers):
                if not await self._end.send(router, Pulse(self.epoch, self.load)):
                    await self._router_gone(router)
            await asyncio.sleep(self._pulse_s)

    async def _follow_kv_events(self) -> None:
        """Reads what the engine tells of its cache and lets it go: nothing may pile up while nobody keeps an index of it."""
        while True:
            await self._engine.kv_events()

    async def _router_gone(self, router: RouterId) -> None:
        """Nobody is left to read this router's legs or to use its kept KV: all of it is freed now."""
        self._routers.discard(router)
        self._transfers.pop(router, None)
        legs = [leg for leg, owner in self._owners.items() if owner == router] + self._leases.of_owner(router)
        if legs:
            log.warning("worker %s: router %s is gone; ending its %d legs", self.worker, router, len(legs))
            await self._abort(legs)

    async def _fail_all(self, reason: str) -> None:
        legs: dict[RouterId, list[LegId]] = defaultdict(list)
        for leg, owner in self._owners.items():
            legs[owner].append(leg)
        for router, theirs in legs.items():
            await self._end.send(router, Failed(self.epoch, theirs, reason))
        self._owners.clear()
        self._kinds.clear()

    def _forget(self, leg: LegId) -> None:
        self._owners.pop(leg, None)
        self._kinds.pop(leg, None)
