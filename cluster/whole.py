"""A request done on one worker from prompt to last token: what an ordinary engine does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cluster.leg import LegHandler
from cluster.messages import AddLeg

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest


class WholeLegs(LegHandler):
    """Passes the request on under the leg's id."""

    def engine_request(self, add: AddLeg, request: EngineCoreRequest) -> EngineCoreRequest:
        return msgspec.structs.replace(request, request_id=add.leg)
