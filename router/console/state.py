"""All that the page shows, of one moment and one router, bounded in size however large the cluster is. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from core.ids import RouterId, WorkerId
from router.console.heard import Answer
from router.console.pools import PoolRow, pools
from router.console.requests import RequestRow, decision_row, request_row
from router.console.scaling import ScalingRow, scaling_row
from router.dispatcher import Dispatcher
from router.handovers import WINDOW_S

MOST_REQUESTS = 24
MOST_DECISIONS = 12
MOST_PAIRS = 48
MOST_FAILURES = 5


class FlowRow(msgspec.Struct, frozen=True):
    """What one pair of workers has handed over in the last minute."""

    prefill: WorkerId
    decode: WorkerId
    count: int
    transfer_bytes: int
    transfer_s: float
    recomputed: int


class ControllerRow(msgspec.Struct, frozen=True):
    """Whether what is said of wanted, starting and failed workers is still true."""

    heard_s_ago: float | None
    error: str


class ConsoleState(msgspec.Struct, frozen=True):
    """Requests, decisions and flows are this router's own; workers tell every router the same."""

    router: RouterId
    at: float
    """Unix time."""
    model: str
    models: list[str]
    """All that are served beside each other, this one among them; empty: there is no other."""
    controller: ControllerRow
    open_requests: int
    waiting_requests: int
    waiting_tokens: int
    oldest_waiting_s: float
    pools: list[PoolRow]
    failures: list[dict[str, Any]]
    """Workers that have died lately, the newest first."""
    window_s: float
    flows: list[FlowRow]
    flows_left_out: int
    """Hand-overs of other pairs."""
    kept_whole: int
    """Requests of the same time for which one worker did all."""
    requests: list[RequestRow]
    decisions: list[dict[str, Any]]
    scaling: ScalingRow
    scaling_error: str
    """Why no newer plan is known; empty: the last question was answered."""


def console_state(
    router: RouterId,
    dispatcher: Dispatcher,
    status: Answer[dict[str, Any]],
    scaling: Answer[dict[str, Any]],
    now: float,
    model: str = "",
    models: Sequence[str] = (),
) -> ConsoleState:
    """``now`` is Unix time. ``model`` is what clients call this router's, among those of ``models``."""
    told: Mapping[str, Any] = status.value or {}
    timelines = dispatcher.timelines.newest(max(MOST_REQUESTS, MOST_DECISIONS))
    recent = dispatcher.handovers.recent(dispatcher.now_s, MOST_PAIRS)
    failures: Sequence[dict[str, Any]] = told.get("failures", ())
    return ConsoleState(
        router,
        now,
        told.get("model", model),
        list(models),
        ControllerRow(status.age_s, status.error),
        len(dispatcher),
        len(dispatcher.queue),
        dispatcher.queue.tokens,
        dispatcher.oldest_waiting_s,
        pools(dispatcher.view(), dispatcher.unreachable, told),
        list(reversed(failures))[:MOST_FAILURES],
        WINDOW_S,
        [FlowRow(*pair, flow.count, flow.transfer_bytes, flow.transfer_s, flow.recomputed) for pair, flow in recent.pairs],
        recent.beyond,
        recent.whole,
        [request_row(timeline, dispatcher.now_s) for timeline in timelines[:MOST_REQUESTS]],
        [decision_row(timeline) for timeline in timelines if timeline.decisions][:MOST_DECISIONS],
        scaling_row(scaling.value or {}),
        scaling.error,
    )
