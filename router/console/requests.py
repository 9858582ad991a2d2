"""A recent request as the console shows it: where its time went so far, and why it went where it went. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from core.ids import RequestId, WorkerId
from core.metrics.words import Part
from router.decisions import explained
from router.timeline import Timeline

MOST_CANDIDATES = 6
MOST_REJECTED = 6


class RequestRow(msgspec.Struct, frozen=True):
    """Seconds are from its arrival."""

    request: RequestId
    client_request: str
    arrived_at: float
    """Unix time."""
    outcome: str
    error: str | None
    part: Part | None
    """In which it is; None: it has ended."""
    parts_s: dict[Part, float]
    """In their order. The one it is in as far as it has come."""
    took_s: float
    first_token_s: float | None
    prefill_worker: WorkerId | None
    decode_worker: WorkerId | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    transfer_bytes: int
    was_transferred: bool | None
    attempts: int
    losses: int
    resumes: int


def request_row(timeline: Timeline, now_s: float) -> RequestRow:
    """``now_s`` is on the router's clock."""
    took_s = timeline.finished_s if timeline.finished_s is not None else max(0.0, now_s - timeline.began_s)
    parts_s, part = timeline.parts_until(took_s), None
    if timeline.finished_s is None:
        part = _part(timeline)
        if part is Part.QUEUE:  # it counts as waited for when it is over
            parts_s[Part.QUEUE] = parts_s.get(Part.QUEUE, 0.0) + parts_s.pop(Part.ROUTE, 0.0)
    return RequestRow(
        timeline.request,
        timeline.client_request,
        timeline.arrived_at,
        timeline.outcome,
        timeline.error,
        part,
        {known: parts_s[known] for known in Part if known in parts_s},
        took_s,
        timeline.first_token_s,
        timeline.prefill_worker,
        timeline.decode_worker,
        timeline.prompt_tokens,
        timeline.cached_tokens,
        timeline.output_tokens,
        timeline.transfer_bytes,
        timeline.was_transferred,
        timeline.attempts,
        timeline.losses,
        timeline.resumes,
    )


def _part(timeline: Timeline) -> Part:
    if timeline.sent_s is None:
        return Part.QUEUE
    if timeline.decoding_s is not None:
        return Part.DECODE
    return Part.PREFILL if timeline.handed_off_s is None else Part.HANDOFF_WAIT


def decision_row(timeline: Timeline) -> dict[str, Any]:
    """The newest decision on a request that has one: as ``GET /v1/baton/decisions``, with the cheapest candidates only."""
    told = explained(timeline)
    made = told["decisions"][-1]
    candidates, rejected = made["candidates"], list(made["rejected"].items())
    return {
        "request": timeline.request,
        "client_request": timeline.client_request,
        "decided_at": timeline.arrived_at + made["at_s"],
        "outcome": timeline.outcome,
        "attempts": timeline.attempts,
        **made,
        "candidates": candidates[:MOST_CANDIDATES],
        "candidates_left_out": len(candidates[MOST_CANDIDATES:]),
        "rejected": dict(rejected[:MOST_REJECTED]),
        "rejected_left_out": len(rejected[MOST_REJECTED:]),
        "happened": {name: told["happened"][name] for name in ("ttft_s", "tpot_s", "output_tokens", "cached_tokens")},
    }
