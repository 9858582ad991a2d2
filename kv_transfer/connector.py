"""vLLM's NIXL pull connector, changed in the four places where a cluster needs more than a pair of servers does.

Loaded by name inside every engine process (``kv_connector_module_path``), on both ends of a hand-off:

1. *First token.* Decode is given the prompt plus the first token, which prefill sampled and the client already has. The
   stock connector counts that token as remote and kills the engine whenever the prefilled length is a multiple of the
   block size; here only what prefill says it computed (``remote_num_tokens``) is pulled.
2. *Release.* A router that no longer needs a finished prefill says so, and its blocks are free in the next step instead of
   when the lease runs out. It travels as an aborted request whose parameters name the legs (``RELEASE_KEY``).
3. *Truth per request.* Which leg received how many bytes in how many seconds, which kept legs were released and which
   expired unread: stock statistics are sums only.
4. *Rest.* NIXL's Python API makes its progress thread poll without a pause, one whole core per idle engine. It is given
   ``progress_thread_rest_us`` of rest; 0 keeps the stock behaviour, right where cores are spare and the link is RDMA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole, KVConnectorTransferResults
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlPullConnector
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_scheduler import NixlPullConnectorScheduler
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_worker import NixlPullConnectorWorker
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.stats import NixlKVConnectorStats

from engine.orphan import exit_with_worker
from engine.vllm_engine import RELEASE_KEY

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata
    from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

_RELEASED_ATTRIBUTE = "baton_released"


class BatonStats(NixlKVConnectorStats):
    """NIXL's sums plus what happened to which leg. Lists, so that tensor-parallel ranks aggregate by joining."""

    def reset(self) -> None:
        super().reset()
        self.data["leg_transfers"] = []  # [leg, bytes, seconds]
        self.data["legs_released"] = []
        self.data["legs_expired"] = []

    def is_empty(self) -> bool:
        return super().is_empty() and not self.data["legs_released"]


class _Scheduler(NixlPullConnectorScheduler):
    """Scheduler side: counts remote tokens right and carries releases to the worker side."""

    def __init__(self, vllm_config: VllmConfig, engine_id: str, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, engine_id, kv_cache_config)
        self._released: list[str] = []

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int, bool]:
        params = request.kv_transfer_params
        if params and params.get("do_remote_prefill") and params.get("remote_num_tokens"):
            missing = min(params["remote_num_tokens"], request.num_prompt_tokens) - num_computed_tokens
            return (missing, True) if missing > 0 else (0, False)
        stock: tuple[int, bool] = super().get_num_new_matched_tokens(request, num_computed_tokens)
        return stock

    def on_new_request(self, request: Request) -> None:
        params = request.kv_transfer_params
        if params and RELEASE_KEY in params:
            self._released += params[RELEASE_KEY]
            return
        super().on_new_request(request)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        meta = super().build_connector_meta(scheduler_output)
        setattr(meta, _RELEASED_ATTRIBUTE, self._released)
        self._released = []
        return meta


class _Worker(NixlPullConnectorWorker):
    """Worker side: frees released legs and keeps the books per leg."""

    def __init__(self, vllm_config: VllmConfig, engine_id: str, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, engine_id, kv_cache_config)
        self.xfer_stats = BatonStats()
        self._to_release: set[str] = set()

    def start_load_kv(self, metadata: NixlConnectorMetadata) -> None:
        super().start_load_kv(metadata)
        self._to_release.update(getattr(metadata, _RELEASED_ATTRIBUTE, ()))

    def _reap_expired_send_leases(self, done_sending: set[str]) -> None:
        for leg in self._to_release & self._reqs_to_send.keys():
            del self._reqs_to_send[leg]
            self._reqs_to_process.discard(leg)
            self.consumer_notification_counts_by_req.pop(leg, None)
            self.expected_consumer_notifications_by_req.pop(leg, None)
            done_sending.add(leg)
        self._to_release.clear()
        kept = set(self._reqs_to_send)
        super()._reap_expired_send_leases(done_sending)
        self.xfer_stats.data["legs_expired"] += kept - self._reqs_to_send.keys()

    def get_transfer_results(self) -> KVConnectorTransferResults:
        results = super().get_transfer_results()
        self.xfer_stats.data["legs_released"] += results.finished_sending
        return results

    def _pop_done_transfers(self, transfers: dict[str, list[int]]) -> tuple[set[str], set[str]]:
        # One request at a time, so that the telemetry recorded meanwhile is known to be that request's.
        done: set[str] = set()
        failed: set[str] = set()
        data = self.xfer_stats.data
        for leg in list(transfers):
            before = len(data["bytes_transferred"])
            one = {leg: transfers.pop(leg)}
            finished, broken = super()._pop_done_transfers(one)
            transfers.update(one)
            done |= finished
            failed |= broken
            moved = sum(data["bytes_transferred"][before:])
            if moved:
                data["leg_transfers"].append([leg, moved, max(data["transfer_duration"][before:])])
        return done, failed


class BatonConnector(NixlPullConnector):
    """What an engine's ``KVTransferConfig`` names; see the module."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        assert vllm_config.kv_transfer_config is not None
        _rest_progress_thread(int(vllm_config.kv_transfer_config.get_from_extra_config("progress_thread_rest_us", 0)))
        exit_with_worker()
        # Not super().__init__: it would build the stock scheduler and worker, and NIXL's agent with them, twice.
        super(NixlPullConnector, self).__init__(vllm_config, role, kv_cache_config)
        if role == KVConnectorRole.SCHEDULER:
            self.connector_scheduler = _Scheduler(vllm_config, self.engine_id, kv_cache_config)
        else:
            self.connector_worker = _Worker(vllm_config, self.engine_id, kv_cache_config)

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats | None:
        return BatonStats(data=data) if data is not None else BatonStats()


def _rest_progress_thread(rest_us: int) -> None:
    """Makes every NIXL agent created from now on in this process rest between polls; 0 changes nothing."""
    if rest_us <= 0:
        return
    import nixl._api as api

    if not hasattr(api, "nixlBind"):
        import nixl_cu12._api as api
    make_agent: Callable[..., Any] = api.nixlBind.nixlAgent
    if getattr(make_agent, "rests", False):
        return

    def resting_agent(name: str, config: Any) -> Any:
        config.pthrDelay = rest_us
        return make_agent(name, config)

    resting_agent.rests = True  # type: ignore[attr-defined]
    api.nixlBind.nixlAgent = resting_agent
