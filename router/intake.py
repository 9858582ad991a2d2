"""What becomes of vLLM's request when it comes into the router."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.ids import RequestId
from engine.sampling import without_transfer
from engine.vllm_codec import RequestCodec
from router.decision_note import current_note
from router.entry import Entry
from router.flow import Flow
from router.http_trace import current_trace
from router.retry import Retry
from router.service import current_service
from router.timeline import Timeline
from router.track import Track
from router.traits import traits

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest


def take_in(request: EngineCoreRequest, codec: RequestCodec, retry: Retry, now_s: float) -> Entry:
    """A request with a flow and a timeline of its own, not begun; with service, note and trace of the context this is called in.

    Changes the request: nothing of a client's reaches the transfer of KV, and what its service says is for the engine, too.
    """
    sampling = request.sampling_params
    if sampling is not None:
        request.sampling_params = sampling = without_transfer(sampling)
    service = current_service()
    request.priority = service.priority  # for engines that are told to schedule by it; the others do not look
    how = traits(request)
    name = RequestId(request.request_id)
    timeline = Timeline(
        request=name,
        client_request=request.external_req_id or request.request_id,
        arrived_at=request.arrival_time,
        began_s=now_s,
        prompt_tokens=len(request.prompt_token_ids or ()),
        max_tokens=(sampling.max_tokens if sampling else None) or 0,
        split_reason=how.reason,
    )
    note = current_note()
    if note is not None:
        note.request = timeline.client_request
    http = current_trace()
    track = None if http is None else Track.of(http, now_s)
    if track is not None:
        timeline.trace_id = track.context.trace_id
    return Entry(request, Flow(name, how, retry), timeline, codec.encode(request), service, note=note, track=track)
