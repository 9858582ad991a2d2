"""What decisions cost, how good predictions are, who has which prompts cached, and who waits."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from core.metrics import of_requests as r
from core.metrics import of_workers as w
from deploy.dashboards.page import page
from deploy.dashboards.panels import COUNT, RATIO, SECONDS, TOKENS, Query, graph, heat, signed_graph
from deploy.dashboards.queries import cells, level, quantile, rate

_OF = "quantity,role"
_UP_TO_HALF = 'le="0.5"'
_FAR_OFF = (
    f"{rate(r.PREDICTION_ERROR, by=_OF, part='count')} - on (quantity, role) {rate(r.PREDICTION_ERROR, _UP_TO_HALF, by=_OF, part='bucket')}"
)


def dashboard() -> Dashboard:
    return page(
        "baton-balancer",
        "Baton / Balancer",
        "What decisions cost, how good predictions are, cache hits, and the queue.",
        {
            "Decisions": (
                graph(
                    "Seconds per decision",
                    "Of the router's thread, per look for workers, with what it asks of caches and queue. Above 5 ms: a router has too "
                    "many workers to look at, or too little CPU; add router.replicas.",
                    SECONDS,
                    Query(quantile(0.5, r.DECISION), "p50"),
                    Query(quantile(0.99, r.DECISION), "p99"),
                    width=8,
                ),
                graph(
                    "Decisions by result",
                    "Per second. Many `no_room`: workers are full, and those that wait are looked at again and again.",
                    COUNT,
                    Query(rate(r.DECISION, by="result", part="count"), "{{result}}"),
                    stacked=True,
                    width=8,
                ),
                graph(
                    "Share of a router spent deciding",
                    "Seconds of decisions per second, of each router. Above 30 %: add router.replicas.",
                    RATIO,
                    Query(rate(r.DECISION, by="instance", part="sum"), "{{instance}}"),
                    width=8,
                ),
                graph(
                    "Legs refused by workers",
                    "Parts of requests a worker did not take, per second, by its word for why; and as routers count, which could not "
                    "reach some. `no_room` while others idle: routers see it wrongly; report it.",
                    COUNT,
                    Query(rate(w.REFUSED_LEGS, by="role,reason"), "{{role}} {{reason}}"),
                    Query(f"{rate(r.LEG_REFUSALS)} or vector(0)", "as routers count"),  # without a worker there is none
                ),
                graph(
                    "Legs outstanding",
                    "Parts of requests routers have on each worker or plan for it. One far above the others: it is slow.",
                    COUNT,
                    Query(level(r.OUTSTANDING_LEGS, by="worker"), "{{worker}}"),
                ),
            ),
            "Predictions": (
                graph(
                    "Median error",
                    "Of the newest 512 predictions of the router that is worst off, relative to what happened. Above 0.5 for `ttft` or "
                    "`tpot`: a worker's steps are not what they were, or something else uses the machine.",
                    RATIO,
                    Query(level(r.PREDICTION_MEDIAN, by=_OF, how="max"), "{{quantity}} {{role}}"),
                    width=8,
                ),
                signed_graph(
                    "Bias",
                    "Median error with its sign, mean of all routers; above 0 too much is predicted. Far below 0 for `ttft`: work arrives "
                    "that routers do not see. Near -1 for `queue` alone means nothing.",
                    RATIO,
                    Query(level(r.PREDICTION_BIAS, by=_OF, how="avg"), "{{quantity}} {{role}}"),
                    width=8,
                ),
                graph(
                    "Share of predictions off by half or more",
                    "Grows: decisions rest on guesses; see which quantity.",
                    RATIO,
                    Query(f"({_FAR_OFF}) / {rate(r.PREDICTION_ERROR, by=_OF, part='count')}", "{{quantity}} {{role}}"),
                    most=1,
                    width=8,
                ),
            ),
            "Prefixes": (
                graph(
                    "Cache hits by worker",
                    "Share of the prompt tokens given to a worker that it had in its cache. Falls on all: other prompts, too little KV "
                    "memory, or a policy that ignores caches.",
                    RATIO,
                    Query(f"{rate(r.PREFIX_HITS, by='worker')} / {rate(r.PREFIX_ASKED, by='worker')}", "{{worker}}"),
                    most=1,
                ),
                graph(
                    "Prompt tokens, cached and not",
                    "Per second, of all workers that began with a request. What is not cached is what prefill has to compute.",
                    TOKENS,
                    Query(rate(r.PREFIX_HITS), "cached"),
                    Query(f"{rate(r.PREFIX_ASKED)} - {rate(r.PREFIX_HITS)}", "to be computed"),
                    stacked=True,
                ),
            ),
            "Queue": (
                graph(
                    "Requests waiting",
                    "Requests that no worker has room for, of each router. Rising: add workers, or expect 429.",
                    COUNT,
                    Query(level(r.WAITING_REQUESTS, by="instance"), "{{instance}}"),
                    width=8,
                ),
                graph(
                    "Tokens waiting",
                    "Tokens to be computed for those. Divided by the pools' rate, it is the wait.",
                    TOKENS,
                    Query(level(r.WAITING_TOKENS, by="instance"), "{{instance}}"),
                    width=8,
                ),
                graph(
                    "Longest wait",
                    "How long the one has waited that waits longest. Near router.queue.max_wait_s: 429 follow.",
                    SECONDS,
                    Query(level(r.OLDEST_WAITING, by="instance", how="max"), "{{instance}}"),
                    width=8,
                ),
                heat(
                    "Waits in the queue",
                    "How many requests spent how long in the routers' queue. Everything in the lowest row: nobody waits.",
                    SECONDS,
                    Query(cells(r.PHASE, 'phase="queue"')),
                    width=24,
                ),
            ),
        },
    )
