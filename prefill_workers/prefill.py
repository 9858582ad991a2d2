"""Prefill legs: one more token from the engine, then a handle on the KV it leaves behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from cluster.leg import LegHandler
from cluster.messages import AddLeg
from core.handle import KVHandle
from core.ids import Epoch, LegId, RouterId, WorkerId
from engine.base import StepReport
from engine.sampling import continued, discarded, one_more
from kv_transfer.lease import Lease, LeaseTable

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest

log = logging.getLogger(__name__)


class PrefillLegs(LegHandler):
    """The prefill legs of one worker and the leases on what they computed. ``clock`` is monotonic seconds."""

    def __init__(self, worker: WorkerId, epoch: Epoch, lease_s: float, clock: Callable[[], float]) -> None:
        self._worker = worker
        self._epoch = epoch
        self._lease_s = lease_s
        self._clock = clock
        self.leases = LeaseTable()

    def engine_request(self, add: AddLeg, request: EngineCoreRequest) -> EngineCoreRequest:
        assert request.sampling_params is not None
        sample = one_more if add.first_token_counts else discarded
        keep = {"do_remote_decode": True, "do_remote_prefill": False}
        sampling = continued(sample(request.sampling_params, len(add.emitted)), add.emitted, keep)
        return msgspec.structs.replace(request, request_id=add.leg, sampling_params=sampling)

    def finished(self, owner: RouterId, output: EngineCoreOutput) -> KVHandle | None:
        transfer = output.kv_transfer_params
        if not transfer or not transfer.get("remote_block_ids"):
            return None
        leg = LegId(output.request_id)
        blocks = sum(len(group) for group in transfer["remote_block_ids"])
        self.leases.grant(Lease(leg, owner, blocks, self._clock() + self._lease_s))
        return KVHandle(
            worker=self._worker,
            epoch=self._epoch,
            leg=leg,
            tokens=transfer["remote_num_tokens"],
            blocks=blocks,
            expires_in_s=self._lease_s,
            transfer=transfer,
        )

    def stepped(self, report: StepReport) -> None:
        for leg in report.renewed:
            self.leases.renew(leg, self._clock() + self._lease_s)
        for leg in report.expired:
            log.warning("worker %s: nobody came for the KV of leg %s in time; its blocks are free", self._worker, leg)
        for leg in report.released:
            self.leases.end(leg)
