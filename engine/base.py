"""The engine interface: the shape of vLLM's ``EngineCoreClient``, plus the two things a cluster needs (leases, KV events)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from core.adapter import Adapter
from core.ids import LegId
from core.step_model import StepWork
from core.worker import EngineFacts

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from vllm.v1.engine import EngineCoreOutputs, EngineCoreRequest

Progress = Callable[[str], None]
"""Called with a few words each time a slow start enters its next phase ("loading weights")."""


class EngineStats(msgspec.Struct, frozen=True):
    """An engine's newest own statistics. All zero before the first step."""

    running: int = 0
    waiting: int = 0
    free_blocks: int = 0
    num_blocks: int = 0
    computed_prompt_tokens: int = 0
    """Prompt tokens this engine has computed itself since its start (neither cached nor pulled)."""
    received_bytes: int = 0
    """KV bytes pulled from other engines since the start."""


class Transfer(msgspec.Struct, frozen=True):
    """One finished KV pull, told by the engine that pulled."""

    leg: LegId
    transfer_bytes: int
    transfer_s: float


class StepSample(msgspec.Struct, frozen=True):
    """One step that was made: what it computed and how long it took, as requests felt it."""

    work: StepWork
    seconds: float
    """Between two steps of a busy engine the time from one's end to the other's, so that what happens in between is in it."""


class StepReport(msgspec.Struct, frozen=True):
    """What one engine step told beside its tokens."""

    stats: EngineStats
    transfers: Sequence[Transfer] = ()
    """KV pulls that finished in this step, on the pulling engine."""
    released: Sequence[LegId] = ()
    """Legs whose kept blocks were freed in this step (read, released or expired), on the engine that kept them."""
    expired: Sequence[LegId] = ()
    """The part of ``released`` that no reader came for in time."""
    renewed: Sequence[LegId] = ()
    """Legs whose lease begins anew, as a reader that still waits for its turn has said that it will come."""
    samples: Sequence[StepSample] = ()
    """Steps made since the last report that computed anything. An engine that cannot tell leaves it empty."""


class KVEventMessage(msgspec.Struct, frozen=True):
    """One batch of block stored / removed / cleared events, as vLLM's publisher encodes it."""

    sequence: int
    """Grows by one per message of one engine life; a hole means events were missed."""
    payload: bytes
    """msgpack of ``vllm.distributed.kv_events.KVEventBatch``."""


class Engine(ABC):
    """An engine core that computes tokens for requests, step by step.

    Order of calls: ``start`` once, then any of the others from one event loop, ``shutdown`` once. After ``shutdown`` or
    after ``EngineFailedError`` from ``step`` nothing else may be called but ``shutdown``.
    """

    @abstractmethod
    async def start(self, progress: Progress) -> EngineFacts:
        """Loads the model. Takes seconds to minutes; ``progress`` says what it is at. Raises EngineFailedError."""

    @abstractmethod
    async def add(self, request: EngineCoreRequest) -> None:
        """Queues a request; its outputs come from ``step`` under its request id.

        ``sampling_params.extra_args["kv_transfer_params"]`` with ``do_remote_decode`` asks that the finished prompt's
        blocks be kept under a lease (the last output carries the handle's parameters); with ``do_remote_prefill`` it
        holds such parameters and the engine pulls the blocks before computing. Unknown ids are never an error later.

        Its ``EMITTED_KEY`` (``engine.sampling``) names output tokens made elsewhere: the request goes on behind them as if
        this engine had made them itself. They count for ``max_tokens``, penalties, seed, grammar and all else that looks
        back, are not told again, and their KV is pulled, kept and counted in ``prefill_stats`` like the prompt's.
        """

    @abstractmethod
    async def abort(self, legs: Sequence[LegId]) -> None:
        """Ends requests at once and frees their blocks. Unknown and finished ids are ignored.

        Outputs that were on their way may still come; none does behind the first output of anything added later.
        """

    @abstractmethod
    async def release(self, legs: Sequence[LegId]) -> None:
        """Ends the leases of finished prefills nobody will read; frees their blocks at once. Unknown ids are ignored."""

    @abstractmethod
    async def step(self) -> tuple[EngineCoreOutputs, StepReport]:
        """Waits for the next step with anything to say. Its outputs may be empty. Cancelling it loses nothing.

        Raises EngineFailedError when the engine died; every request it had is lost then.
        """

    @abstractmethod
    async def kv_events(self) -> KVEventMessage:
        """Waits for the next KV event message. Cancelling it loses nothing. Never returns where events are off."""

    @abstractmethod
    async def utility(self, method: str, *args: Any) -> Any:
        """Calls one of the engine core's own utilities, e.g. ``reset_prefix_cache``. Raises EngineFailedError."""

    @abstractmethod
    async def load_adapter(self, adapter: Adapter) -> None:
        """Loads it from this node, between two steps: everybody waits meanwhile. Loaded already is no error. It takes up one of
        ``EngineFacts.adapter_slots`` until it is unloaded; the caller sees to it that one is free. Raises AdapterError, and then nothing
        has changed; EngineFailedError."""

    @abstractmethod
    async def unload_adapter(self, name: str) -> None:
        """Gives its slot free. Only while no request is with it. Unknown ones are ignored. Raises AdapterError where the engine goes on and
        may still have it; EngineFailedError."""

    @abstractmethod
    async def sleep(self) -> None:
        """Gives back its memory, and forgets what it has cached. Only for an engine without requests and leases, and with
        ``EngineFacts.can_sleep``. Until ``wake`` nothing may be added. Raises EngineFailedError."""

    @abstractmethod
    async def wake(self) -> None:
        """Takes its memory again; returns when requests can be added. Cancelling it leaves nobody knows what. Raises EngineFailedError."""

    @property
    @abstractmethod
    def stats(self) -> EngineStats:
        """The newest statistics; does not wait."""

    @abstractmethod
    def metrics(self) -> Iterable[Metric]:
        """vLLM's own metrics of this engine, under vLLM's names; does not wait. Those of requests are not among them: a part of a
        request is none, and routers tell of whole ones."""

    @abstractmethod
    async def shutdown(self) -> None:
        """Stops the engine and everything it started; frees its memory. Idempotent."""
