"""The real engine: one vLLM engine core in a process of its own, driven through vLLM's ``AsyncMPClient``.

Everything here that is vLLM's own and may move with its version: ``make_async_mp_client``, the ready configuration it fills
in, and the names of the statistics. ``tests/contract`` runs one suite over this engine and the simulated one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq
import zmq.asyncio

from core.adapter import Adapter
from core.errors import AdapterError, EngineFailedError
from core.ids import LegId
from core.step_model import StepWork
from core.worker import EngineFacts
from engine.base import Engine, EngineStats, KVEventMessage, Progress, StepReport, StepSample, Transfer
from engine.orphan import mark_worker

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from vllm.v1.engine import EngineCoreOutputs, EngineCoreRequest
    from vllm.v1.engine.core_client import AsyncMPClient
    from vllm.v1.metrics.stats import SchedulerStats

    from engine.vllm_metrics import VllmMetrics

log = logging.getLogger(__name__)

RELEASE_KEY = "baton_release"
"""In ``kv_transfer_params`` of a request added with ``abort_immediately``: the legs to release. ``kv_transfer.connector`` reads it."""

_WEIGHTS_TO_HOST = 1
"""vLLM's sleep level: weights go to the host's memory, from where they are back in seconds, and the KV cache is forgotten."""

VLLM_TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_EVENT_LIMIT = 10_000
"""KV event messages kept for a reader that is behind, or absent; it then sees a hole in the sequence."""


class VllmEngine(Engine):
    """One engine core process.

    ``engine_args`` are vLLM's ``AsyncEngineArgs``; ``kv_transfer`` its ``KVTransferConfig`` (None: no hand-off);
    ``host`` the address other engines reach this one's transfer side channel at; ``run_dir`` holds its KV event socket.
    """

    def __init__(self, engine_args: Mapping[str, Any], kv_transfer: Mapping[str, Any] | None, host: str, run_dir: Path) -> None:
        self._engine_args = dict(engine_args)
        self._kv_transfer = dict(kv_transfer) if kv_transfer else None
        self._host = host
        self._events_path = run_dir / f"kv-{os.getpid()}-{id(self):x}.sock"
        self._client: AsyncMPClient | None = None
        self._stats = EngineStats()
        self._metrics: VllmMetrics | None = None
        self._events_context: zmq.asyncio.Context | None = None
        self._events: zmq.asyncio.Socket | None = None

    async def start(self, progress: Progress) -> EngineFacts:
        progress("importing vLLM")
        mark_worker()
        prepare_environment(self._host, eager={**default_engine_args(), **self._engine_args}.get("enforce_eager", False))
        try:
            # Blocks this loop until the engine is ready, as vLLM's own server does: its sockets belong to the loop they
            # are made in. Whoever must stay responsive meanwhile runs on another thread.
            return self._launch(progress)
        except Exception as error:
            await self.shutdown()
            raise EngineFailedError(f"vLLM could not start: {error}") from error

    def _launch(self, progress: Progress) -> EngineFacts:
        from vllm.config import KVEventsConfig, KVTransferConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.core_client import EngineCoreClient
        from vllm.v1.executor import Executor

        from engine.vllm_metrics import VllmMetrics

        arguments = with_empty_slot({**default_engine_args(), **self._engine_args})
        if self._kv_transfer:
            arguments["kv_transfer_config"] = KVTransferConfig(**self._kv_transfer)
        self._events_path.parent.mkdir(parents=True, exist_ok=True)
        arguments["kv_events_config"] = KVEventsConfig(
            enable_kv_cache_events=True, publisher="zmq", endpoint=f"ipc://{self._events_path}", topic="kv"
        )
        config = AsyncEngineArgs(**arguments).create_engine_config()
        if endpoint := config.observability_config.otlp_traces_endpoint:
            os.environ[VLLM_TRACES] = endpoint  # where vLLM's processes look for it: its own front half, which we leave out, sets it
        self._subscribe()
        progress("loading the model")
        self._client = EngineCoreClient.make_async_mp_client(config, Executor.get_class(config), log_stats=True)
        self._metrics = VllmMetrics(config)
        blocks = (config.cache_config.num_gpu_blocks or 1) - 1  # vLLM keeps one block as its null block
        self._stats = EngineStats(free_blocks=blocks, num_blocks=blocks)
        return EngineFacts(
            block_size_tokens=config.cache_config.block_size,
            num_blocks=blocks,
            max_model_len=config.model_config.max_model_len,
            max_num_seqs=config.scheduler_config.max_num_seqs,
            max_num_batched_tokens=config.scheduler_config.max_num_batched_tokens,
            # Memory that sleep gives back and maps anew is memory that NIXL's peers still read: no engine that hands over sleeps as yet.
            adapter_slots=config.lora_config.max_loras if config.lora_config is not None else 0,
            can_sleep=config.model_config.enable_sleep_mode and self._kv_transfer is None,
        )

    def _subscribe(self) -> None:
        self._events_context = zmq.asyncio.Context()
        self._events = self._events_context.socket(zmq.SUB)
        self._events.set_hwm(_EVENT_LIMIT)
        self._events.setsockopt(zmq.LINGER, 0)
        self._events.subscribe(b"kv")
        self._events.connect(f"ipc://{self._events_path}")

    @property
    def _core(self) -> AsyncMPClient:
        if self._client is None:
            raise EngineFailedError("the engine is not running")
        return self._client

    async def add(self, request: EngineCoreRequest) -> None:
        with _as_engine_failure():
            await self._core.add_request_async(request)

    async def abort(self, legs: Sequence[LegId]) -> None:
        with _as_engine_failure():
            await self._core.abort_requests_async(list(legs))

    async def release(self, legs: Sequence[LegId]) -> None:
        if not legs or self._kv_transfer is None:
            return
        from vllm import SamplingParams
        from vllm.v1.engine import EngineCoreRequest

        carrier = EngineCoreRequest(
            request_id=f"release:{time.monotonic_ns()}",
            prompt_token_ids=[0],
            mm_features=None,
            sampling_params=SamplingParams(max_tokens=1, extra_args={"kv_transfer_params": {RELEASE_KEY: list(legs)}}),
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
            abort_immediately=True,
        )
        await self.add(carrier)

    async def step(self) -> tuple[EngineCoreOutputs, StepReport]:
        with _as_engine_failure():
            outputs = await self._core.get_output_async()
        if self._metrics is not None:
            self._metrics.observe(outputs)
        return outputs, self._report(outputs)

    def _report(self, outputs: EngineCoreOutputs) -> StepReport:
        computed = sum(o.prefill_stats.num_computed_tokens for o in outputs.outputs if o.prefill_stats is not None)
        moved = outputs.scheduler_stats.kv_connector_stats if outputs.scheduler_stats else None
        moved = moved or {}
        transfers = [Transfer(LegId(leg), int(size), float(seconds)) for leg, size, seconds in moved.get("leg_transfers", ())]
        old = self._stats
        self._stats = EngineStats(
            **_scheduler_numbers(outputs.scheduler_stats, old),
            num_blocks=old.num_blocks,
            computed_prompt_tokens=old.computed_prompt_tokens + computed,
            received_bytes=old.received_bytes + sum(transfer.transfer_bytes for transfer in transfers),
        )
        released, expired, renewed = (tuple(map(LegId, moved.get(f"legs_{what}", ()))) for what in ("released", "expired", "renewed"))
        samples = [StepSample(StepWork(*work), seconds) for *work, seconds in moved.get("steps", ())]
        return StepReport(self._stats, transfers, released, expired, renewed, samples)

    async def kv_events(self) -> KVEventMessage:
        if self._events is None:
            raise EngineFailedError("the engine is not running")
        _topic, sequence, payload = await self._events.recv_multipart()
        return KVEventMessage(int.from_bytes(sequence, "big"), payload)

    async def utility(self, method: str, *args: Any) -> Any:
        with _as_engine_failure():
            return await self._core.call_utility_async(method, *args)

    async def load_adapter(self, adapter: Adapter) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        from engine.vllm_lora import engine_lora

        try:
            await self._core.add_lora_async(engine_lora(adapter))
        except EngineDeadError as error:
            raise EngineFailedError(f"{type(error).__name__}: {error}") from error
        except Exception as error:  # whatever reading files and shaping tensors raises: vLLM sends it back as text
            log.warning("the adapter %s cannot be loaded from %s: %s", adapter.name, adapter.path, error)
            raise AdapterError(adapter.name, str(error).replace(adapter.path, adapter.name)) from error

    async def unload_adapter(self, name: str) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        from engine.vllm_lora import lora_number

        try:
            await self._core.remove_lora_async(lora_number(name))
        except EngineDeadError as error:
            raise EngineFailedError(f"{type(error).__name__}: {error}") from error
        except Exception as error:  # the engine goes on
            raise AdapterError(name, f"it could not be unloaded: {error}") from error

    async def sleep(self) -> None:
        # Not with NIXL: it has the cache's memory registered with the network, as its peers have, and what vLLM gives back and takes
        # again is other memory at the same address.
        await self.utility("sleep", _WEIGHTS_TO_HOST)

    async def wake(self) -> None:
        await self.utility("wake_up")

    @property
    def stats(self) -> EngineStats:
        return self._stats

    def metrics(self) -> Iterable[Metric]:
        return self._metrics.families() if self._metrics is not None else ()

    async def shutdown(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            # vLLM joins the engine process; off this loop, which may still have outputs to deliver.
            await asyncio.to_thread(client.shutdown, 5.0)
        if self._events is not None and self._events_context is not None:
            self._events.close(0)
            self._events_context.term()
            self._events = None
            self._events_path.unlink(missing_ok=True)


def default_engine_args() -> dict[str, Any]:
    """What Baton asks of vLLM unless the configuration says otherwise.

    On CPU the ``uni`` executor runs the worker inside the engine process: the default one spins on shared memory and
    starves a small machine (32 tokens took up to 58 s on two cores).
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {}
    return {"distributed_executor_backend": "uni", "enforce_eager": True}


def with_empty_slot(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """On the CPU, one slot for LoRA adapters more than will ever be filled. vLLM 0.32 gives requests without an adapter the index -1, and
    its kernels for the CPU take that for the last slot (``lora/ops/torch_ops``): beside others' adapters they would be computed with it."""
    from vllm.platforms import current_platform

    if not arguments.get("enable_lora") or not current_platform.is_cpu():
        return dict(arguments)
    return {**arguments, "max_loras": arguments["max_loras"] + 1, "max_cpu_loras": arguments["max_cpu_loras"] + 1}


def prepare_environment(host: str, eager: bool) -> None:
    """Sets what vLLM reads from the environment, before its engine process is started. Values already set win.

    ``eager``: the model is not compiled. On CPU nothing is then: vLLM compiles a line or two for logprobs all the same, which
    stops the engine for ten seconds at the first request that asks for them, and ends it where there is no C++ compiler.
    """
    defaults = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        if eager:
            defaults["TORCHDYNAMO_DISABLE"] = "1"
        for name, value in defaults.items():
            os.environ.setdefault(name, value)
    os.environ.pop("VLLM_ALLOW_INSECURE_SERIALIZATION", None)  # with it, vLLM unpickles what comes from a socket
    os.environ["VLLM_NIXL_SIDE_CHANNEL_HOST"] = host
    os.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(_free_port(host))


def _free_port(host: str) -> int:
    """A port nobody uses now. vLLM binds it later; should another process be faster, the start fails and is tried again."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _scheduler_numbers(stats: SchedulerStats | None, old: EngineStats) -> dict[str, int]:
    if stats is None:
        return {"running": old.running, "waiting": old.waiting, "free_blocks": old.free_blocks}
    return {
        "running": stats.num_running_reqs,
        "waiting": stats.num_waiting_reqs + stats.num_skipped_waiting_reqs,
        "free_blocks": round((1.0 - stats.kv_cache_usage) * old.num_blocks),
    }


@contextlib.contextmanager
def _as_engine_failure() -> Any:
    """Any error out of vLLM's client means the engine core is dead or refused the call: one error of ours for both."""
    try:
        yield
    except EngineFailedError:
        raise
    except Exception as error:
        raise EngineFailedError(f"{type(error).__name__}: {error}") from error
