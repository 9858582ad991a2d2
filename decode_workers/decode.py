"""Decode legs: the request again, with the tokens that are out already as its output so far and the KV to be pulled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cluster.leg import LegHandler
from cluster.messages import AddLeg
from engine.sampling import continued, without_prompt_logprobs

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest


class DecodeLegs(LegHandler):
    """The decode legs of one worker. With no handle, or behind what it covers, the worker computes prompt and output itself."""

    def engine_request(self, add: AddLeg, request: EngineCoreRequest) -> EngineCoreRequest:
        assert request.sampling_params is not None
        sampling = without_prompt_logprobs(request.sampling_params)  # prefill has told them, also if nothing is out yet
        sampling = continued(sampling, add.emitted, add.handle.transfer if add.handle is not None else None)
        return msgspec.structs.replace(request, request_id=add.leg, sampling_params=sampling)
