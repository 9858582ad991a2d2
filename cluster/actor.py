"""The Ray actor that hosts one worker. A thin shell: it starts the runtime on a thread of its own and answers the controller.

The runtime's loop is blocked for as long as vLLM loads, and must never wait for Ray afterwards; so the two share nothing but
a few attributes. Actor methods return at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import ray

from cluster.spec import WorkerReport, WorkerSpec
from core.errors import EngineFailedError
from core.worker import WorkerCard, WorkerState

if TYPE_CHECKING:
    from cluster.runtime import WorkerRuntime

log = logging.getLogger(__name__)

BuildRuntime = Callable[[WorkerSpec, str], "WorkerRuntime"]
"""Composes a worker from its parts, given its spec and the node's address. Called inside the worker's own loop."""

ABANDONED_AFTER_S = 300.0
"""A worker that no controller has asked for so long ends itself: its application is gone."""


class WorkerActor:
    """Methods are called by the controller; everything else happens on the worker's thread."""

    def __init__(self, spec: WorkerSpec, build: BuildRuntime) -> None:
        self._spec = spec
        self._build = build
        self._phase = "starting its process"
        self._failed: str | None = None
        self._card: WorkerCard | None = None
        self._runtime: WorkerRuntime | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._asked_at_s = time.monotonic()
        self._done = threading.Event()
        threading.Thread(target=self._serve, name="baton-worker", daemon=True).start()
        threading.Thread(target=self._end_when_abandoned, name="baton-abandoned", daemon=True).start()

    def spec(self) -> WorkerSpec:
        """What this worker was made from: how a restarted controller gets its keys back."""
        return self._spec

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
            received_bytes=runtime.received_bytes,
            computed_prompt_tokens=runtime.computed_prompt_tokens,
        )

    def drain(self) -> None:
        """From now on new legs are refused; running ones go on."""
        if self._runtime is not None:
            self._runtime.draining = True

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Ends the worker and its engine process; True when all of it has ended in time."""
        loop, main = self._loop, self._main
        if loop is not None and main is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(main.cancel)
        return self._done.wait(timeout_s)

    def _serve(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            log.exception("worker %s ended", self._spec.worker)
            self._failed = self._failed or f"{type(error).__name__}: {error}"
        finally:
            self._done.set()

    async def _run(self) -> None:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        address = ray.util.get_node_ip_address()
        runtime = self._build(self._spec, address)
        try:
            facts = await runtime.start(self._enter)
            self._card = WorkerCard(
                worker=self._spec.worker,
                epoch=self._spec.epoch,
                role=self._spec.role,
                state=WorkerState.READY,
                address=runtime.address,
                public_key=self._spec.worker_keys.public,
                facts=facts,
            )
            # What is loaded now stays: the collector need not walk through half a million objects of it ever again.
            gc.collect()
            gc.freeze()
            self._runtime = runtime
            self._enter("ready")
            self._failed = await runtime.run()
        except EngineFailedError as error:
            self._failed = error.reason
        except asyncio.CancelledError:
            self._failed = "stopped"
        finally:
            await runtime.close()

    def _enter(self, phase: str) -> None:
        self._phase = phase

    def _end_when_abandoned(self) -> None:
        while time.monotonic() - self._asked_at_s < ABANDONED_AFTER_S:
            if self._done.wait(5.0):
                return
        log.error("worker %s has heard from no controller for %.0f s; ending", self._spec.worker, ABANDONED_AFTER_S)
        self.stop()
        os._exit(1)
