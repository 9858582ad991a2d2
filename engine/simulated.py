"""The simulated engine: obeys ``engine.base.Engine`` in real time, with vLLM's messages, without computing anything."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest

from core.adapter import Adapter
from core.errors import AdapterError, EngineFailedError
from core.ids import LegId
from core.pace import Pace
from core.worker import EngineFacts
from engine.base import Engine, EngineStats, KVEventMessage, Progress, StepReport, StepSample
from engine.sim_config import SimulatedEngineConfig
from engine.sim_link import Clock, Link, LinkRate, Sleep, Verb, Word
from engine.sim_messages import encode_events, to_handle, to_output, to_sim_request
from engine.sim_metrics import SimMetrics
from engine.sim_outbox import Outbox
from engine.sim_request import Emitted, RemotePrompt
from engine.sim_scheduler import SimScheduler
from engine.sim_step import Pull, StepResult
from engine.sim_zmq_link import ZmqLink

if TYPE_CHECKING:
    from prometheus_client.core import Metric

logger = logging.getLogger(__name__)

_Answer = tuple[EngineCoreOutputs, StepReport]
_EVENT_LIMIT = 10_000
"""Event messages nobody reads are lost beyond this; the hole in their numbers says so."""


class SimulatedEngine(Engine):
    """One scheduler, stepped by a task of its own, and a link to other simulated engines.

    ``engine_id`` names this life and must be new for every one; ``link`` defaults to ZMQ on the configured host, ``clock`` and ``sleep``
    to the wall's at the configured pace.
    """

    def __init__(
        self,
        config: SimulatedEngineConfig,
        *,
        engine_id: str | None = None,
        link: Link | None = None,
        clock: Clock | None = None,
        sleep: Sleep | None = None,
    ) -> None:
        pace = Pace(config.slowdown)
        self.engine_id = engine_id or uuid.uuid4().hex
        self._config = config
        self._clock = clock or pace.now
        self._sleep = sleep or pace.sleep
        rate = LinkRate(config.link_gbps, config.link_latency_s)
        self._link = link or ZmqLink(config.host, config.link_answer_s, rate, config.lease_s, self._clock, self._sleep)
        self._scheduler = SimScheduler(config)
        self._metrics = SimMetrics()
        self._answers: Outbox[_Answer] = Outbox()
        self._events: Outbox[KVEventMessage] = Outbox(_EVENT_LIMIT)
        self._samples: list[StepSample] = []
        """Steps nobody has been told of: one that only computes part of a prompt has nothing else to tell."""
        self._next_sequence = 0
        self._due_s: float | None = None
        """When the step before should have ended, if the next follows it at once."""
        self._num_logprobs: dict[LegId, int] = {}
        self._pulls: dict[LegId, asyncio.Task[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wake = asyncio.Event()
        self._adapters: dict[str, None] = {}
        self._between_steps = asyncio.Lock()
        self._asleep = False
        self._closed = False

    async def start(self, progress: Progress) -> EngineFacts:
        progress("simulating a start")
        await self._sleep(self._config.startup_s)
        await self._link.open(self.engine_id, self._hear)
        self._spawn(self._run())
        self._spawn(self._renew_waiting())
        return self._config.facts

    async def add(self, request: EngineCoreRequest) -> None:
        try:
            wanted = to_sim_request(request, self._config.max_model_len)
        except KeyError as error:
            logger.warning("%s cannot be pulled: its parameters lack %s", request.request_id, error)
            wanted = None
        if wanted is None or (wanted.adapter is not None and wanted.adapter not in self._adapters):
            self._scheduler.refuse(LegId(request.request_id))
        elif request.abort_immediately:
            self._dismiss(wanted.remote)
        else:
            self._scheduler.add(wanted, self._clock())
            if request.sampling_params is not None and request.sampling_params.num_logprobs is not None:
                self._num_logprobs[wanted.leg] = request.sampling_params.num_logprobs
        self._wake.set()

    async def abort(self, legs: Sequence[LegId]) -> None:
        gone = set(legs)
        for leg in legs:
            pull = self._pulls.pop(leg, None)
            if pull is not None:
                pull.cancel()
            self._num_logprobs.pop(leg, None)
            self._dismiss(self._scheduler.abort(leg))
        self._answers.replace(lambda answer: _without(answer, gone))
        self._wake.set()

    async def release(self, legs: Sequence[LegId]) -> None:
        for leg in legs:
            self._scheduler.release(leg)
        self._wake.set()

    async def step(self) -> _Answer:
        return await self._answers.get()

    async def kv_events(self) -> KVEventMessage:
        return await self._events.get()

    async def utility(self, method: str, *args: Any) -> Any:
        match method:
            case "get_supported_tasks":
                return ("generate",)
            case "reset_prefix_cache":
                cleared = self._scheduler.clear_cache()
                self._wake.set()
                return cleared
            case "reset_mm_cache" | "reset_encoder_cache":
                return None
            case "is_sleeping" | "is_scheduler_paused":
                return self._asleep
        raise EngineFailedError(f"the simulated engine has no utility {method!r}")

    async def load_adapter(self, adapter: Adapter) -> None:
        async with self._between_steps:
            if adapter.name in self._adapters:
                return
            if len(self._adapters) >= self._config.adapter_slots:
                raise AdapterError(adapter.name, f"all {self._config.adapter_slots} slots are taken")
            await self._sleep(self._config.adapter_load_s)
            self._adapters[adapter.name] = None

    async def unload_adapter(self, name: str) -> None:
        self._adapters.pop(name, None)

    async def sleep(self) -> None:
        if self._config.wake_s is None:
            raise EngineFailedError("the simulated engine is not configured to sleep; see `wake_s`")
        self._scheduler.clear_cache()
        self._asleep = True
        self._wake.set()

    async def wake(self) -> None:
        await self._sleep(self._config.wake_s or 0.0)
        self._asleep = False

    @property
    def stats(self) -> EngineStats:
        return self._scheduler.stats

    def metrics(self) -> Iterable[Metric]:
        return self._metrics.families(self.stats)

    async def shutdown(self) -> None:
        if self._closed:
            return
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.close()
        self._close_outboxes(EngineFailedError("the engine was shut down"))

    async def _run(self) -> None:
        """Steps for ever. Whatever goes wrong is told to the reader of ``step``, as it is for an engine process that died."""
        try:
            while True:
                async with self._between_steps:
                    idle = await self._run_step()
                if idle:
                    await self._idle()
        except Exception as error:
            logger.exception("the simulated engine failed")
            self._close_outboxes(EngineFailedError(f"the simulated engine failed: {error!r}"))

    async def _run_step(self) -> bool:
        """Makes one step; whether there was nothing to compute."""
        self._wake.clear()
        now_s = self._clock()
        step = self._scheduler.schedule(now_s)
        for pull in step.pulls:
            self._pulls[pull.leg] = self._spawn(self._pull(pull))
        for remote in step.dismissed:
            self._dismiss(remote)
        if step.chunks:
            work = step.work
            step_s = self._config.timing.step_s(work)
            # A sleep ends late, by little and always: that is not added up over a long answer's steps.
            began_s = now_s if self._due_s is None else min(now_s, max(self._due_s, now_s - step_s))
            self._due_s = began_s + step_s
            # Also an instant engine waits for nothing here, so that everybody else has a turn between two steps.
            await self._sleep(max(0.0, self._due_s - now_s))
            self._samples.append(StepSample(work, self._clock() - now_s))
        self._tell(self._scheduler.finish(step, self._clock()))
        if not step.chunks:
            self._due_s = None
        return not step.chunks

    async def _idle(self) -> None:
        """Waits until somebody calls, or the next lease ends."""
        expiry_s = self._scheduler.next_expiry_s
        if expiry_s is None:
            await self._wake.wait()
            return
        alarm = asyncio.ensure_future(self._sleep(max(0.0, expiry_s - self._clock())))
        called = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((alarm, called), return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
            called.cancel()

    def _tell(self, result: StepResult) -> None:
        self._metrics.observe(result)
        if result.block_events and self._config.kv_events:
            payload = encode_events(result.block_events, time.time(), self._config.block_size_tokens)
            self._events.put(KVEventMessage(self._next_sequence, payload))
            self._next_sequence += 1
        if result.empty:
            return
        outputs = EngineCoreOutputs(outputs=[self._output(emitted) for emitted in result.emitted], timestamp=self._clock())
        samples, self._samples = self._samples, []
        self._answers.put((outputs, StepReport(self.stats, result.transfers, result.released, result.expired, samples=samples)))

    def _output(self, emitted: Emitted) -> EngineCoreOutput:
        num_logprobs = self._num_logprobs.get(emitted.leg)
        if emitted.ended:
            self._num_logprobs.pop(emitted.leg, None)
        kept = emitted.kept
        handle = to_handle(kept, emitted.leg, self.engine_id, self._link.host, self._link.port) if kept is not None else None
        return to_output(emitted, num_logprobs, self._config.vocab_size, handle)

    async def _pull(self, pull: Pull) -> None:
        complete = await self._link.pull(pull.remote, pull.transfer_bytes)
        if complete:
            self._scheduler.pulled(pull.leg, self._clock())
        else:
            logger.warning("%s: the kept prompt of %s is gone; computing it here", pull.leg, pull.remote.leg)
            self._scheduler.pull_failed(pull.leg)
        self._pulls.pop(pull.leg, None)
        self._wake.set()

    def _hear(self, word: Word) -> bool:
        """What another engine says about a prompt this one keeps."""
        if word.engine_id != self.engine_id or not self._scheduler.renew(word.leg, self._clock()):
            return False
        if word.verb is Verb.READ:
            self._scheduler.release(word.leg)
            self._wake.set()
        return True

    async def _renew_waiting(self) -> None:
        """Keeps alive what waiting requests have still to pull."""
        while True:
            await self._sleep(self._config.lease_s / 3)
            remotes = list(self._scheduler.unpulled())
            await asyncio.gather(*(self._link.say(remote, Verb.RENEW) for remote in remotes))

    def _dismiss(self, remote: RemotePrompt | None) -> None:
        """Lets the keeper of a prompt that will not be read free it."""
        if remote is not None:
            self._spawn(self._link.say(remote, Verb.READ))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _close_outboxes(self, error: EngineFailedError) -> None:
        self._answers.close(error)
        self._events.close(error)


def _without(answer: _Answer, legs: set[LegId]) -> _Answer:
    """An answer nobody has read yet, without the outputs of aborted legs."""
    outputs, report = answer
    left = [output for output in outputs.outputs if output.request_id not in legs]
    return msgspec.structs.replace(outputs, outputs=left), report
