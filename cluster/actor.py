"""The Ray actor that hosts one worker. A thin shell: it starts the runtime on a thread of its own and answers the controller.

The runtime's loop is blocked for as long as vLLM loads, and must never wait for Ray afterwards; so the two share nothing but
a few attributes. Actor methods return at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec
import ray

from cluster.drain import hard_limit_s
from cluster.spec import WorkerReport, WorkerSpec
from cluster.worker_metrics import worker_listener
from core import heap
from core.config import BatonConfig
from core.errors import EngineFailedError
from core.worker import Role, WorkerCard, WorkerState

if TYPE_CHECKING:
    from cluster.runtime import WorkerRuntime

log = logging.getLogger(__name__)

BuildRuntime = Callable[[WorkerSpec, str], "WorkerRuntime"]
"""Composes a worker from its parts, given its spec and the node's address. Called inside the worker's own loop."""

ABANDONED_AFTER_S = 300.0
"""A worker that no controller has asked for so long ends itself: its application is gone."""


_LOOKS_S = 0.5
_CONTROLLER_HAS_S = 5.0
"""For ending a worker that has drained; after that it ends itself."""


class WorkerActor:
    """Methods are called by the controller; everything else happens on the worker's thread.

    SIGTERM means drain: the process ends when the worker has nothing left to do. A second one, or one before the engine has
    loaded, ends it at once, as Ray would have done at the first.
    """

    def __init__(self, spec: WorkerSpec, build: BuildRuntime) -> None:
        self._spec = spec
        self._build = build
        self._phase = "starting its process"
        self._failed: str | None = None
        self._card: WorkerCard | None = None
        self._metrics_address = ""
        self._runtime: WorkerRuntime | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._asked_at_s = time.monotonic()
        self._done = threading.Event()
        # Ray makes an actor without coroutines on the main thread, whatever its concurrency, and lets handlers run there.
        self._ray_handler: Any = signal.signal(signal.SIGTERM, self._told_to_end)
        self._was_told_to_end = False
        threading.Thread(target=self._serve, name="baton-worker", daemon=True).start()
        threading.Thread(target=self._end_when_abandoned, name="baton-abandoned", daemon=True).start()

    def spec(self) -> WorkerSpec:
        """What this worker was made from, with its present role: how a restarted controller gets both back, and the keys."""
        return self._spec

    def relabel(self, role: Role) -> None:
        """It is one of the other pool from now on, and says so. Nothing else changes: every engine can do every leg."""
        self._spec = msgspec.structs.replace(self._spec, role=role)
        if self._card is not None:
            self._card = msgspec.structs.replace(self._card, role=role)

    def beat(self) -> WorkerReport:
        """How the worker is. Also tells it that it still has a controller."""
        self._asked_at_s = time.monotonic()
        about = {"phase": self._phase, "failed": self._failed, "pid": os.getpid(), "node": ray.util.get_node_ip_address()}
        runtime, card = self._runtime, self._card
        if runtime is None or card is None:
            return WorkerReport(**about)
        return WorkerReport(
            **about,
            card=card,
            load=runtime.load,
            idle=runtime.idle,
            stuck_s=time.monotonic() - runtime.ticked_at_s,
            asleep=runtime.asleep,
            draining_s=runtime.draining_s,
            received_bytes=runtime.received_bytes,
            computed_prompt_tokens=runtime.computed_prompt_tokens,
            measured=runtime.measured,
            metrics_address=self._metrics_address,
        )

    def drain(self, timeout_s: float) -> None:
        """From now on new legs are refused; running ones have ``timeout_s``, then their routers are asked to move them."""
        if self._runtime is not None:
            self._runtime.drain(timeout_s)

    def rest(self, asleep: bool) -> None:
        """To sleep, if it drains and has nothing to do; or awake again, and taking legs. Its beats tell when that is done."""
        loop, runtime = self._loop, self._runtime
        if loop is not None and runtime is not None:
            loop.call_soon_threadsafe(runtime.rest, asleep)

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Ends the worker and its engine process; True when all of it has ended in time."""
        loop, main = self._loop, self._main
        if loop is not None and main is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(main.cancel)
        return self._done.wait(timeout_s)

    def _serve(self) -> None:
        try:
            asyncio.run(_host(self))
        except BaseException as error:
            log.exception("worker %s ended", self._spec.worker)
            self._failed = self._failed or f"{type(error).__name__}: {error}"
        finally:
            self._done.set()

    def _enter(self, phase: str) -> None:
        self._phase = phase

    def _told_to_end(self, number: int, frame: FrameType | None) -> None:
        runtime = self._runtime
        if runtime is None or self._was_told_to_end:
            self._ray_handler(number, frame)
            return
        self._was_told_to_end = True
        config = BatonConfig.model_validate(self._spec.config)
        timeout_s = config.pool(self._spec.role).drain_timeout_s
        runtime.drain(timeout_s)
        limit_s = hard_limit_s(timeout_s, config.kv_transfer.lease_s)
        threading.Thread(target=self._end_when_drained, args=(runtime, limit_s), name="baton-drain", daemon=True).start()

    def _end_when_drained(self, runtime: WorkerRuntime, limit_s: float) -> None:
        """The controller ends a worker that has drained. Where there is none to do so, it ends itself."""
        limit_at_s = time.monotonic() + limit_s + _CONTROLLER_HAS_S
        idle_s = 0.0
        while idle_s < _CONTROLLER_HAS_S and time.monotonic() < limit_at_s:
            if self._done.wait(_LOOKS_S):
                return
            idle_s = idle_s + _LOOKS_S if runtime.idle else 0.0
        log.warning("worker %s was told to end; ending", self._spec.worker)
        self.stop()
        os._exit(0)

    def _end_when_abandoned(self) -> None:
        while time.monotonic() - self._asked_at_s < ABANDONED_AFTER_S:
            if self._done.wait(5.0):
                return
        log.error("worker %s has heard from no controller for %.0f s; ending", self._spec.worker, ABANDONED_AFTER_S)
        self.stop()
        os._exit(1)


async def _host(worker: WorkerActor) -> None:
    """The worker from its start to its end, on its own loop.

    Not a method: with one coroutine among its methods, Ray would run the whole actor on an event loop off the main thread, where
    no signal handler can be installed.
    """
    worker._loop, worker._main = asyncio.get_running_loop(), asyncio.current_task()
    address = ray.util.get_node_ip_address()
    with heap.loading():
        runtime = worker._build(worker._spec, address)
    listener = worker_listener(runtime, lambda: worker._spec.role, BatonConfig.model_validate(worker._spec.config).host or address)
    try:
        with heap.loading():
            facts = await runtime.start(worker._enter)
        worker._card = WorkerCard(
            worker=worker._spec.worker,
            epoch=worker._spec.epoch,
            role=worker._spec.role,
            state=WorkerState.READY,
            address=runtime.address,
            public_key=worker._spec.worker_keys.public,
            facts=facts,
        )
        worker._metrics_address = await listener.open()
        worker._runtime = runtime
        worker._enter("ready")
        worker._failed = await runtime.run()
    except EngineFailedError as error:
        worker._failed = error.reason
    except asyncio.CancelledError:
        worker._failed = "stopped"
    finally:
        listener.close()
        await runtime.close()
