"""Are promises kept, who is refused, and how long do clients wait."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from core.metrics import of_pools as p
from core.metrics import of_requests as r
from deploy.dashboards.page import page
from deploy.dashboards.panels import COUNT, GREEN, ORANGE, RATIO, RED, REQUESTS, SECONDS, TOKENS, Query, graph, number
from deploy.dashboards.queries import level, quantile, rate

_MET = 'result="met"'
_READY = 'state="ready"'
_FAULTS = 'outcome=~"lost|engine|timed_out"'
_LOAD = 'reason!~"unauthorized|invalid|too_large|slow_body"'
"""Refusals that say something of the cluster, not of the client."""
_ELSE = 'outcome!="refused"'
_DECIDED = f"({rate(r.REQUESTS, _ELSE)} + {rate(r.REFUSALS, _LOAD)})"
"""Every request ends once: refused, at the door or later, or otherwise."""


def dashboard() -> Dashboard:
    return page(
        "baton-overview",
        "Baton / Overview",
        "Promises, refusals, latencies and demand of all requests. Begin here.",
        {
            "Now": (
                number(
                    "Goodput",
                    "Requests that got what they were promised, of all that were promised something; refused ones count as misses. "
                    "Below 90 %: see which promise is missed below. `missed_ttft` is short of prefill, `missed_tpot` of decode.",
                    RATIO,
                    Query(f"{rate(r.OBJECTIVES, _MET)} / {rate(r.OBJECTIVES)}", "goodput"),
                    good=((None, RED), (0.8, ORANGE), (0.9, GREEN)),
                ),
                number(
                    "Requests",
                    "Requests taken in, per second; refused at the door are not in it. This is the demand.",
                    REQUESTS,
                    Query(rate(r.ARRIVALS), "arrivals"),
                ),
                number(
                    "Refused",
                    "Share of requests refused for want of room or since a promise could not be kept; mistakes of clients are not in it. "
                    "Above a few percent: add workers, or promise less.",
                    RATIO,
                    Query(f"{rate(r.REFUSALS, _LOAD)} / {_DECIDED}", "refused"),
                    good=((None, GREEN), (0.01, ORANGE), (0.05, RED)),
                ),
                number(
                    "Failed",
                    "Requests per second that ended in an error: lost with their workers, refused by the engine, or timed out. "
                    "Should be 0; read GET /v1/baton/requests and the workers' logs.",
                    REQUESTS,
                    Query(rate(r.REQUESTS, _FAULTS), "failed"),
                    good=((None, GREEN), (0.001, RED)),
                ),
                number(
                    "Workers ready",
                    "Workers that take requests, of both pools. Fewer than wanted for longer than a start takes: `baton status`.",
                    COUNT,
                    Query(level(p.WORKERS, _READY), "ready"),
                    good=((None, RED), (1, GREEN)),
                ),
                number(
                    "Workers missing",
                    "Workers wanted and not ready. More than 0 while they start, or are replaced; if it stays, `baton status` says why.",
                    COUNT,
                    Query(f"{level(p.WANTED)} - {level(p.WORKERS, _READY)}", "missing"),
                    good=((None, GREEN), (1, ORANGE)),
                ),
            ),
            "Promises and refusals": (
                graph(
                    "Objectives kept and missed",
                    "Requests that were promised something, by what came of it. `missed_ttft` grows: prefill is short; `missed_tpot`: "
                    "decode is; `refused`: both are, or more is promised than can be kept.",
                    REQUESTS,
                    Query(rate(r.OBJECTIVES, by="result"), "{{result}}"),
                    stacked=True,
                ),
                graph(
                    "Goodput by class",
                    "Share of each class's requests that got what they were promised. One class below the others: its objectives are too "
                    "tight for the hardware, or its priority is too low.",
                    RATIO,
                    Query(f"{rate(r.OBJECTIVES, _MET, by='class')} / {rate(r.OBJECTIVES, by='class')}", "{{class}}"),
                    most=1,
                ),
                graph(
                    "Requests by outcome",
                    "Requests that ended, by how. `lost`, `engine` and `timed_out` are errors to their clients; `cancelled` are clients "
                    "that left.",
                    REQUESTS,
                    Query(rate(r.REQUESTS, by="outcome"), "{{outcome}}"),
                    stacked=True,
                ),
                graph(
                    "Refusals by reason",
                    "Requests refused at the door or in the queue. `queue_full`, `long_wait`, `ttft`, `tpot`, `waited`: add workers, or "
                    "promise less. `no_worker`: `baton status`. `unauthorized`, `invalid`, `too_large`: a client's mistake.",
                    REQUESTS,
                    Query(rate(r.REFUSALS, by="reason"), "{{reason}}"),
                    stacked=True,
                ),
            ),
            "Latency by class": (
                graph(
                    "Time to first token",
                    "From the router's having read a request to its first token. Grows: the Request phases dashboard says which part.",
                    SECONDS,
                    Query(quantile(0.5, r.TTFT, by="class"), "{{class}} p50"),
                    Query(quantile(0.9, r.TTFT, by="class"), "{{class}} p90"),
                    Query(quantile(0.99, r.TTFT, by="class"), "{{class}} p99", exemplars=True),
                ),
                graph(
                    "Time per token",
                    "Mean time per token after the first, of answers that came to their end. Grows: decode workers have too much to do, "
                    "or compute prompts beside; see Engine steps on the Engines dashboard.",
                    SECONDS,
                    Query(quantile(0.5, r.TPOT, by="class"), "{{class}} p50"),
                    Query(quantile(0.9, r.TPOT, by="class"), "{{class}} p90"),
                    Query(quantile(0.99, r.TPOT, by="class"), "{{class}} p99", exemplars=True),
                ),
                graph(
                    "Pauses between tokens",
                    "Between two messages with tokens of the same request: what clients see as stutter. Its tail grows and the time per "
                    "token does not: prompts hold up answers, preemptions, lost workers.",
                    SECONDS,
                    Query(quantile(0.9, r.GAP, by="class"), "{{class}} p90"),
                    Query(quantile(0.99, r.GAP, by="class"), "{{class}} p99"),
                ),
                graph(
                    "Whole requests",
                    "From arrival to the last token, of answers that came to their end. Longer answers, or slower ones: compare with the "
                    "output tokens below.",
                    SECONDS,
                    Query(quantile(0.5, r.REQUEST, by="class"), "{{class}} p50"),
                    Query(quantile(0.9, r.REQUEST, by="class"), "{{class}} p90"),
                ),
            ),
            "Demand": (
                graph(
                    "Requests taken in",
                    "Arrivals by class, whatever became of them. With the tokens beside it, this is what the pools are sized for.",
                    REQUESTS,
                    Query(rate(r.ARRIVALS, by="class"), "{{class}}"),
                    stacked=True,
                    width=8,
                ),
                graph(
                    "Tokens per second",
                    "Prompt tokens are the demand on prefill, less cache hits; output tokens the demand on decode, as far as it is served.",
                    TOKENS,
                    Query(rate(r.PROMPT_TOKENS), "prompt"),
                    Query(rate(r.OUTPUT_TOKENS), "output"),
                    width=8,
                ),
                graph(
                    "Tokens per second by tenant",
                    "Prompt and output tokens of requests that ended; tenants without a name in the configuration are `other`. One has "
                    "most of it: weigh it, docs/objectives.md.",
                    TOKENS,
                    Query(rate(r.TENANT_TOKENS, by="tenant"), "{{tenant}}"),
                    stacked=True,
                    width=8,
                ),
            ),
        },
    )
