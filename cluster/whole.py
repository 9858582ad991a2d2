"""A request done on one worker to its last token: from its prompt, or behind what another worker has made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cluster.leg import LegHandler
from cluster.messages import AddLeg
from engine.sampling import continued

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest


class WholeLegs(LegHandler):
    """Passes the request on under the leg's id, with the tokens that are out already as its output so far."""

    def engine_request(self, add: AddLeg, request: EngineCoreRequest) -> EngineCoreRequest:
        sampling = request.sampling_params
        if sampling is not None:  # pooling requests have none
            sampling = continued(sampling, add.emitted)
        return msgspec.structs.replace(request, request_id=add.leg, sampling_params=sampling)
