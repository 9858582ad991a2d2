"""vLLM's NIXL pull connector, changed in the six places where a cluster needs more than a pair of servers does.

Loaded by name inside every engine process (``kv_connector_module_path``), on both ends of a hand-off:

1. *Emitted tokens.* A request may arrive with output that was made elsewhere, at least the token that prefill sampled
   (``engine.vllm_continuation``). The stock connector pulls for whole prompts only; here what prefill says it computed
   (``remote_num_tokens``) is pulled, be it prompt or output.
2. *Release.* A router that no longer needs a finished prefill says so, and its blocks are free in the next step instead of
   when the lease runs out. It travels as an aborted request whose parameters name the legs (``RELEASE_KEY``).
3. *Truth per request and per step.* Which leg received how many bytes in how many seconds, which kept legs were released and
   which expired unread, what each step computed and how long it took: stock statistics are sums only.
4. *Rest.* NIXL's Python API makes its progress thread poll without a pause, one whole core per idle engine. It is given
   ``progress_thread_rest_us`` of rest; 0 keeps the stock behaviour, right where cores are spare and the link is RDMA.
5. *Lease words.* Pulled blocks are used only if they were kept until the last byte was read, and only then is prefill told
   that it may free them (``lease_words``, ``pull_check``). The stock connector would decode from reused blocks.
6. *Time limit.* A pull that neither comes nor fails within ``pull_timeout_s`` counts as failed, and the blocks it may still
   write to are not reused until it has ended (``quarantine``). The stock connector waits for ever.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlPullConnector
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_scheduler import NixlPullConnectorScheduler

from engine import vllm_continuation
from engine.orphan import exit_with_worker
from engine.vllm_continuation import continue_request, count_prefill
from engine.vllm_engine import RELEASE_KEY
from kv_transfer.connector_messages import ORDERS_ATTRIBUTE, BatonStats, Orders
from kv_transfer.connector_worker import BatonWorker
from kv_transfer.lease_words import LEASE_KEY, LeaseBook
from kv_transfer.progress_rest import rest_progress_thread
from kv_transfer.quarantine import BlockNews, HeldBlocks
from kv_transfer.step_clock import StepClock, work_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.utils import BlockIds
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorHandshakeMetadata, KVConnectorMetadata
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


class _Scheduler(NixlPullConnectorScheduler):
    """Scheduler side: counts remote tokens right, numbers leases, carries releases to the worker side."""

    def __init__(self, vllm_config: VllmConfig, engine_id: str, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, engine_id, kv_cache_config)
        self._orders = Orders()
        # A kept leg has at least its last block to itself, so there are never more of them than blocks.
        self._book = LeaseBook(kv_cache_config.num_blocks)
        self.held = HeldBlocks()
        self.steps = StepClock(vllm_config.max_concurrent_batches)

    def set_xfer_handshake_metadata(self, metadata: dict[tuple[int, int], KVConnectorHandshakeMetadata]) -> None:
        self._book.locate({rank: payload.words_address for (_, rank), payload in metadata.items()})
        super().set_xfer_handshake_metadata(metadata)

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int, bool]:
        params = request.kv_transfer_params
        missing = 0  # what has no lease cannot be checked, so it is not pulled
        if params and params.get("do_remote_prefill") and LEASE_KEY in params:
            missing = max(0, min(params["remote_num_tokens"], request.num_tokens) - num_computed_tokens)
        count_prefill(request, num_computed_tokens, missing)
        return missing, missing > 0

    def on_new_request(self, request: Request) -> None:
        params = request.kv_transfer_params
        if params and RELEASE_KEY in params:
            self._orders.released += params[RELEASE_KEY]
            return
        super().on_new_request(request)
        continue_request(request)

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        if (request.kv_transfer_params or {}).get("do_remote_decode"):
            self._book.open(request.request_id)  # in its first step: every rank writes the word before the leg can finish
        super().update_state_after_alloc(request, blocks, num_external_tokens)

    def request_finished(self, request: Request, block_ids: BlockIds) -> tuple[bool, dict[str, Any] | None]:
        kept, params = super().request_finished(request, block_ids)
        if kept and params is not None:
            params.update(self._book.transfer_params(request.request_id))
        else:
            self._book.close(request.request_id)
        return kept, params

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        for leg, (request, _, _, awaiting_kvs) in self._reqs_need_recv.items():
            if awaiting_kvs:
                self._orders.leases[leg] = request.kv_transfer_params[LEASE_KEY]
        self._orders.words = self._book.take_orders()
        meta = super().build_connector_meta(scheduler_output)
        setattr(meta, ORDERS_ATTRIBUTE, self._orders)
        self._orders = Orders()
        self.steps.scheduled(work_of(scheduler_output), scheduler_output.num_scheduled_tokens.keys(), time.monotonic())
        return meta

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        super().update_connector_output(connector_output)
        for leg in connector_output.finished_sending or ():
            self._book.close(leg)
        if isinstance(connector_output.kv_connector_worker_meta, BlockNews):
            self.held.hear(connector_output.kv_connector_worker_meta)

    def has_pending_push_work(self) -> bool:
        return self.held.count > 0  # an idle engine must go on asking whether its blocks can be let go


class BatonConnector(NixlPullConnector):
    """What an engine's ``KVTransferConfig`` names; see the module."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        assert vllm_config.kv_transfer_config is not None
        rest_progress_thread(int(vllm_config.kv_transfer_config.get_from_extra_config("progress_thread_rest_us", 0)))
        exit_with_worker()
        vllm_continuation.install(vllm_config)
        # Not super().__init__: it would build the stock scheduler and worker, and NIXL's agent with them, twice.
        super(NixlPullConnector, self).__init__(vllm_config, role, kv_cache_config)
        if role == KVConnectorRole.SCHEDULER:
            self.connector_scheduler = _Scheduler(vllm_config, self.engine_id, kv_cache_config)
        else:
            self.connector_worker = BatonWorker(vllm_config, self.engine_id, kv_cache_config)

    def bind_gpu_block_pool(self, gpu_block_pool: BlockPool) -> None:
        self.connector_scheduler.held.pool = gpu_block_pool

    def build_connector_worker_meta(self) -> BlockNews | None:
        return self.connector_worker.quarantine.take_news()

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        if self.role == KVConnectorRole.WORKER:
            return super().get_kv_connector_stats()
        sample = self.connector_scheduler.steps.updated(time.monotonic())  # asked once per step, when its outputs are there
        if sample is None:
            return None
        stats = BatonStats()
        stats.data["steps"].append([*msgspec.structs.astuple(sample.work), sample.seconds])
        return stats

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats | None:
        return BatonStats(data=data) if data is not None else BatonStats()
