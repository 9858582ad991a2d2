"""Decode legs: the request again, with the tokens that are out already as part of its prompt and the KV to be pulled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cluster.leg import LegHandler
from cluster.messages import AddLeg
from engine.sampling import continued_sample, with_transfer

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest


class DecodeLegs(LegHandler):
    """The decode legs of one worker. With no handle the worker computes the prompt itself."""

    def engine_request(self, add: AddLeg, request: EngineCoreRequest) -> EngineCoreRequest:
        assert request.sampling_params is not None
        sampling = continued_sample(request.sampling_params, len(add.emitted))
        if add.handle is not None:
            sampling = with_transfer(sampling, add.handle.transfer)
        prompt = request.prompt_token_ids if request.prompt_token_ids is None else [*request.prompt_token_ids, *add.emitted]
        return msgspec.structs.replace(request, request_id=add.leg, prompt_token_ids=prompt, sampling_params=sampling)
