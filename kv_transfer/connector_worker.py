"""The connector's worker side, one per rank: reads other engines' blocks and lets go of its own. The why is in ``connector``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_worker import NixlPullConnectorWorker

from kv_transfer.connector_messages import ORDERS_ATTRIBUTE, BatonStats, LeasePayload, Orders
from kv_transfer.lease_words import LeaseWords
from kv_transfer.pull_check import PullCheck
from kv_transfer.quarantine import Quarantine

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata
    from vllm.distributed.kv_transfer.kv_connector.v1.nixl.tp_mapping import ReadSpec
    from vllm.v1.kv_cache_interface import KVCacheConfig

log = logging.getLogger(__name__)

_PULL_TIMEOUT_S = 10.0


class _SilentReads:
    """A NIXL agent whose reads tell the other side nothing when they end: it is told when they were found right."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def make_prepped_xfer(self, *args: Any, notif_msg: bytes = b"") -> Any:
        return self._agent.make_prepped_xfer(*args)


class BatonWorker(NixlPullConnectorWorker):
    """Worker side: frees released legs, checks what was pulled, keeps the books per leg."""

    nixl_wrapper: Any
    xfer_handshake_metadata: Any

    def __init__(self, vllm_config: VllmConfig, engine_id: str, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, engine_id, kv_cache_config)
        assert vllm_config.kv_transfer_config is not None
        self.xfer_stats = BatonStats()
        self.nixl_wrapper = _SilentReads(self.nixl_wrapper)
        self._to_release: set[str] = set()
        self._words = LeaseWords(kv_cache_config.num_blocks)
        timeout_s = float(vllm_config.kv_transfer_config.get_from_extra_config("pull_timeout_s", _PULL_TIMEOUT_S))
        self._pulls = PullCheck(self.nixl_wrapper, timeout_s)
        self.quarantine = Quarantine(self.nixl_wrapper)

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        for ours in (self._words, self._pulls):  # before the agent's description of itself, which super() makes
            descs = self.nixl_wrapper.get_reg_descs([(ours.address, ours.num_bytes, 0, "")], "DRAM")
            self.nixl_wrapper.register_memory(descs, backends=self.nixl_backends)
            self._registered_descs.append(descs)
        super().register_kv_caches(kv_caches)
        stock = self.xfer_handshake_metadata
        assert stock is not None
        self.xfer_handshake_metadata = LeasePayload(stock.compatibility_hash, stock.agent_metadata_bytes, self._words.address)

    def start_load_kv(self, metadata: NixlConnectorMetadata) -> None:
        orders: Orders = getattr(metadata, ORDERS_ATTRIBUTE, None) or Orders()
        self._words.obey(orders.words)
        self._pulls.expect(orders.leases)
        super().start_load_kv(metadata)
        self._to_release.update(orders.released)

    def _read_blocks(
        self,
        read_spec: ReadSpec,
        dst_engine_id: str,
        request_id: str,
        remote_request_id: str,
        local_xfer_side_handle: int,
        local_dram_handle: int | None,
        remote_xfer_side_handle: int,
        expected_consumers: int,
        awaiting_kvs: bool,
    ) -> bool:
        if any(len(group) for group in read_spec.local_block_ids):
            agent = self._remote_agents[dst_engine_id][(0, read_spec.remote_rank)]
            self._pulls.reading(request_id, agent, read_spec.remote_rank)
            if not self._mixed_mem_types:  # then the stock connector does the same by itself
                notice = f"{remote_request_id}:{expected_consumers}".encode()
                self._pending_recv_notifs.setdefault(request_id, []).append((agent, notice))
        posted: bool = super()._read_blocks(
            read_spec,
            dst_engine_id,
            request_id,
            remote_request_id,
            local_xfer_side_handle,
            local_dram_handle,
            remote_xfer_side_handle,
            expected_consumers,
            awaiting_kvs,
        )
        return posted

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

    def _handle_heartbeat(self, payload: str) -> None:
        super()._handle_heartbeat(payload)
        self.xfer_stats.data["legs_renewed"] += [leg for leg in payload.split(",") if leg in self._reqs_to_send]

    def get_transfer_results(self) -> KVConnectorTransferResults:
        results = super().get_transfer_results()
        self._words.erase(results.finished_sending)  # before anybody hears that the blocks are free
        for leg in results.finished_recving:
            self._pulls.forget(leg)
        self.quarantine.step()
        self.xfer_stats.data["legs_released"] += results.finished_sending
        return results

    def _pop_done_transfers(self, transfers: dict[str, list[int]]) -> tuple[set[str], set[str]]:
        # One request at a time, so that the telemetry recorded meanwhile is known to be that request's.
        done: set[str] = set()
        failed: set[str] = set()
        data = self.xfer_stats.data
        for leg in [leg for leg in transfers if not self._pulls.checking(leg)]:
            before = len(data["bytes_transferred"])
            one = {leg: transfers[leg]}
            finished, broken = super()._pop_done_transfers(one)
            transfers[leg] = one.get(leg, [])  # stays, without handles, while its words are on their way
            failed |= broken
            moved = sum(data["bytes_transferred"][before:])
            if moved:
                data["leg_transfers"].append([leg, moved, max(data["transfer_duration"][before:])])
            if finished and (broken or leg in self._recv_failures or not self._pulls.check(leg)):
                done.add(leg)
        for leg, valid in self._pulls.verdicts().items():
            done.add(leg)
            if not valid:
                log.warning("%s: the lease on what it pulled ended before the pull did, or cannot be checked; computing it here", leg)
                failed.add(leg)
                self.xfer_stats.record_failed_transfer()
        for leg in self._pulls.overdue():
            if leg in transfers and leg not in done:
                log.warning("%s: its pull neither came nor failed in time; computing it here, in other blocks", leg)
                self.quarantine.hold(transfers[leg], [block for group in self._recving_metadata[leg].local_block_ids for block in group])
                done.add(leg)
                failed.add(leg)
                self.xfer_stats.record_failed_transfer()
        for leg in done:
            del transfers[leg]
        return done, failed
