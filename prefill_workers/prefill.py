"""Prefill legs: one token from the engine, then a handle on the KV it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from cluster.leg import LegHandler
from cluster.messages import AddLeg
from core.handle import KVHandle
from core.ids import Epoch, LegId, RouterId, WorkerId
from engine.base import StepReport
from engine.sampling import discarded_sample, first_token_sample, with_transfer
from kv_transfer.lease import Lease, LeaseTable

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest


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
        sample = first_token_sample if add.first_token_counts else discarded_sample
        keep = {"do_remote_decode": True, "do_remote_prefill": False}
        return msgspec.structs.replace(request, request_id=add.leg, sampling_params=with_transfer(sample(request.sampling_params), keep))

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
        for leg in report.released:
            self.leases.end(leg)
