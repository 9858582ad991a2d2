"""Where the time of requests goes."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from core.metrics import of_requests as r
from core.metrics import of_workers as w
from deploy.dashboards.page import page
from deploy.dashboards.panels import COUNT, RATIO, REQUESTS, SECONDS, Query, graph, heat
from deploy.dashboards.queries import cells, increase, level, quantile, rate

_PHASE_S = rate(r.PHASE, by="phase", part="sum")


def dashboard() -> Dashboard:
    return page(
        "baton-phases",
        "Baton / Request phases",
        "Where the time of requests goes, from their arrival to the last token.",
        {
            "Phases": (
                graph(
                    "Mean seconds per request",
                    "The phases of a mean request, one upon the other; together they are its whole time. `queue`: workers are full. "
                    "`engine_queue`, `prefill`: prefill is. `handoff_wait`, `decode_wait`: decode is. `transfer`: the link.",
                    SECONDS,
                    Query(f"{_PHASE_S} / ignoring(phase) group_left {rate(r.REQUEST, part='count')}", "{{phase}}"),
                    stacked=True,
                ),
                graph(
                    "Share of the time",
                    "The same, each phase as a share of all. What grows here is where to look; most should be `prefill` and `decode`.",
                    RATIO,
                    Query(f"{_PHASE_S} / ignoring(phase) group_left {rate(r.PHASE, part='sum')}", "{{phase}}"),
                    stacked=True,
                    most=1,
                ),
                graph(
                    "p90 by phase",
                    "Of ten requests one takes longer than this in the phase. Far above the mean: few requests bear it; find them with "
                    "GET /v1/baton/requests, or by their traces: the dots, where exemplars are stored.",
                    SECONDS,
                    Query(quantile(0.9, r.PHASE, by="phase"), "{{phase}}", exemplars=True),
                ),
                heat(
                    "Times to first token",
                    "How many first tokens took how long. Two bands: two kinds of prompts, or of workers; a band that rises: a queue.",
                    SECONDS,
                    Query(cells(r.TTFT)),
                ),
            ),
            "Ways": (
                graph(
                    "Requests by plan",
                    "Served by two workers or by one, or never given to anybody. Much `local` where pairs are expected: one worker is "
                    "predicted to be faster; GET /v1/baton/decisions/ID says why.",
                    REQUESTS,
                    Query(rate(r.REQUESTS, by="plan"), "{{plan}}"),
                    stacked=True,
                ),
                graph(
                    "Requests under way",
                    "Requests that routers have, and those of them no worker has room for. Waiting ones rise: add workers, or expect 429. "
                    "It returns to zero without load; if not, report it.",
                    COUNT,
                    Query(level(r.ROUTER_REQUESTS), "under way"),
                    Query(level(r.WAITING_REQUESTS), "waiting"),
                ),
                graph(
                    "Requests resumed",
                    "Requests that another worker went on with or began anew, by how they ended, in each window. Workers die, or are "
                    "drained: see Pools.",
                    COUNT,
                    Query(increase(r.RESUMED, by="outcome"), "{{outcome}}"),
                    stacked=True,
                ),
                graph(
                    "Engines lost under requests",
                    "Engines that ended under a request or were cut off from it, in each window; one that ends under ten counts ten. "
                    "Without a worker that ended, it is the network: raise router.worker_timeout_s.",
                    COUNT,
                    Query(increase(r.ENGINE_LOSSES), "lost"),
                ),
            ),
            "Traces": (
                graph(
                    "Spans told by routers",
                    "What became of the spans of traces; nothing where tracing is off. `failed`: the collector is away or says no. "
                    "`dropped`: it is too slow; lower tracing.sample. Requests do not notice.",
                    COUNT,
                    Query(increase(r.TRACE_SPANS, by="result"), "{{result}}"),
                    stacked=True,
                ),
                graph(
                    "Spans told by workers",
                    "The same for what workers tell of their parts of requests.",
                    COUNT,
                    Query(increase(w.TRACE_SPANS, by="result"), "{{result}}"),
                    stacked=True,
                ),
            ),
        },
    )
