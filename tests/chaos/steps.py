"""Which step of its way a request is at, told from its timeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

Timeline = Mapping[str, Any]


class Step(StrEnum):
    """In the order a request goes through them."""

    QUEUED = "queued"
    """In the router's queue: no worker has room for its prompt."""
    PREFILLING = "prefilling"
    """With a prefill worker, which has not told a token yet."""
    BETWEEN = "between the legs"
    """Prefilled, its first token out, its KV kept; no decode worker has room."""
    PULLING = "pulling"
    """With a decode worker, which has not told a token yet."""
    DECODING = "decoding"


def step_of(timeline: Timeline) -> Step | None:
    """None once it has ended."""
    if timeline["outcome"] != "running":
        return None
    if timeline["decoding_s"] is not None:
        return Step.DECODING
    if timeline["first_token_s"] is None:
        return Step.QUEUED if timeline["sent_s"] is None else Step.PREFILLING
    # Every plan beyond the refusals has a leg under way.
    is_sent = timeline["handed_off_s"] is not None and timeline["attempts"] > timeline["refusals"]
    return Step.PULLING if is_sent else Step.BETWEEN


def is_on(timeline: Timeline, worker: str) -> bool:
    """Whether the step it is at concerns this worker: as the one that computes, keeps or reads."""
    concerned = {
        Step.PREFILLING: {timeline["prefill_worker"]},
        Step.BETWEEN: {timeline["prefill_worker"]},
        Step.PULLING: {timeline["prefill_worker"], timeline["decode_worker"]},
        Step.DECODING: {timeline["decode_worker"]},
    }
    step = step_of(timeline)
    return step is not None and worker in concerned.get(step, set())


def named(timelines: Iterable[Timeline], scene: str) -> list[Timeline]:
    """Those of requests whose names begin with ``scene``."""
    return [timeline for timeline in timelines if str(timeline["client_request"]).removeprefix("cmpl-").startswith(scene)]
