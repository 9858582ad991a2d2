"""What the autoscaler is told, what it expects, what it wants, and what it did."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from core.metrics import of_pools as p
from core.metrics import of_requests as r
from core.metrics import of_scaling as s
from deploy.dashboards.page import page
from deploy.dashboards.panels import COUNT, REQUESTS, SECONDS, TOKENS, Query, graph
from deploy.dashboards.queries import increase, level, quantile

_PREFILL, _DECODE = 'role="prefill"', 'role="decode"'


def dashboard() -> Dashboard:
    return page(
        "baton-autoscaler",
        "Baton / Autoscaler",
        "What the autoscaler is told, expects, wants and does. Empty where autoscaling is off; in words: `baton scaling`.",
        {
            "Demand and forecast": (
                graph(
                    "Prefill",
                    "Prompt tokens to compute per second: asked for now, and expected for when a worker started now is ready, with a "
                    "margin. The forecast is drawn when it was made: what came of it is the demand as much later as How far "
                    "ahead shows. Far above that: traffic that does not repeat itself; see autoscaling.forecast.",
                    TOKENS,
                    Query(level(s.DEMAND, _PREFILL), "demand"),
                    Query(level(s.FORECAST, _PREFILL), "forecast"),
                ),
                graph(
                    "Decode",
                    "Output tokens per second: asked for now, and expected for when a worker started now is ready, with a margin. "
                    "The forecast is drawn when it was made, as beside.",
                    TOKENS,
                    Query(level(s.DEMAND, _DECODE), "demand"),
                    Query(level(s.FORECAST, _DECODE), "forecast"),
                ),
                graph(
                    "What one worker does",
                    "Tokens per second within the objective, by the steps that workers have measured. Falls: longer contexts, slower "
                    "steps, or a tighter objective.",
                    TOKENS,
                    Query(level(s.CAPACITY, by="role"), "{{role}}"),
                    width=8,
                ),
                graph(
                    "How far ahead",
                    "What workers took to start: forecasts are made for that time. Longer than it was: see starts on the Pools dashboard.",
                    SECONDS,
                    Query(level(s.HORIZON, by="role"), "{{role}}"),
                    width=8,
                ),
                graph(
                    "Seconds per plan",
                    "Made on a thread beside the controller's loop. Above 0.1 s: report it.",
                    SECONDS,
                    Query(quantile(0.5, s.PLAN), "p50"),
                    Query(quantile(0.99, s.PLAN), "p99"),
                    width=8,
                ),
            ),
            "Workers": (
                graph(
                    "Prefill workers",
                    "Needed for the forecast before limits, the target of the newest plan, and ready ones. Needed above target: limits "
                    "or the budget hold it back, or a worker of the other role is relabelled. Ready below target: they start.",
                    COUNT,
                    Query(level(s.NEEDED, _PREFILL), "needed"),
                    Query(level(s.TARGET, _PREFILL), "target"),
                    Query(level(p.WORKERS, _PREFILL, 'state="ready"'), "ready"),
                ),
                graph(
                    "Decode workers",
                    "Needed for the forecast before limits, the target of the newest plan, and ready ones; as beside.",
                    COUNT,
                    Query(level(s.NEEDED, _DECODE), "needed"),
                    Query(level(s.TARGET, _DECODE), "target"),
                    Query(level(p.WORKERS, _DECODE, 'state="ready"'), "ready"),
                ),
                graph(
                    "Actions",
                    "Workers that plans relabelled, woke, added, drained or put to sleep, in each window; in a dry run, would have. "
                    "`relabel` to and fro: raise relabel_rest_s. `add` and `drain` in turns: set shrink_after_s, higher.",
                    COUNT,
                    Query(increase(s.ACTIONS, by="kind,role"), "{{kind}} {{role}}"),
                    width=8,
                ),
                graph(
                    "Held, limited, warned",
                    "1 where the newest plan was held for want of numbers, or where limits or the budget keep a pool small; and how many "
                    "warnings it has. Held for longer than a minute: `baton scaling`. Limited while requests are refused: raise max or "
                    "gpu_budget.",
                    COUNT,
                    Query(level(s.HELD), "held"),
                    Query(level(s.CLAMPED, by="role"), "{{role}} limited"),
                    Query(level(s.WARNINGS), "warnings"),
                    width=8,
                ),
                graph(
                    "Failures",
                    "Rounds of the scaler's loop that raised, and actions that could not be done, in each window. Any again and again: "
                    "the controller's log.",
                    COUNT,
                    Query(increase(s.FAILED_ROUNDS), "rounds"),
                    Query(increase(s.FAILED_ACTIONS, by="kind"), "{{kind}}"),
                    width=8,
                ),
            ),
            "What it is told": (
                graph(
                    "Requests per second",
                    "Offered ones, refused ones included: over the configured window, and over the last ten seconds, by which a burst is "
                    "seen first.",
                    REQUESTS,
                    Query(level(s.INPUT, 'quantity="arrivals_per_s"'), "arrivals"),
                    Query(level(s.INPUT, 'quantity="newest_per_s"'), "newest"),
                    width=8,
                ),
                graph(
                    "Requests in the routers",
                    "Those whose prompt waits or is computed, and those that decode. Decoding ones are what decode workers are counted by "
                    "at the least.",
                    COUNT,
                    Query(level(s.INPUT, 'quantity="computing"'), "computing"),
                    Query(level(s.INPUT, 'quantity="decoding"'), "decoding"),
                    Query(level(r.DECODING_REQUESTS), "decoding, as routers tell"),
                    width=8,
                ),
                graph(
                    "Tokens waiting",
                    "Prompt tokens that wait in routers: new workers are to serve them beside what comes.",
                    TOKENS,
                    Query(level(s.INPUT, 'quantity="waiting_tokens"'), "waiting"),
                    width=8,
                ),
                graph(
                    "A mean request",
                    "Prompt and output tokens. Prompts grow: prefill is short next; answers grow: decode.",
                    TOKENS,
                    Query(level(s.INPUT, 'quantity=~"prompt_tokens|output_tokens"', by="quantity"), "{{quantity}}"),
                ),
                graph(
                    "Age of the numbers",
                    "How old the oldest number of the newest plan was. Near stale_s: a router does not answer, or Prometheus scrapes too "
                    "rarely; beyond it plans are held.",
                    SECONDS,
                    Query(level(s.INPUT_AGE), "age"),
                ),
            ),
        },
    )
