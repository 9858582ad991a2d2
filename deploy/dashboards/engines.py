"""Engines as they are: their batches, steps and caches, mostly by vLLM's own metrics."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from core.metrics import of_workers as w
from deploy.dashboards.page import page
from deploy.dashboards.panels import BYTES_PER_S, COUNT, RATIO, SECONDS, TOKENS, Query, graph
from deploy.dashboards.queries import WINDOW, level, quantile, total, vllm


def _rate(name: str, by: str = "worker") -> str:
    return total(f"rate({vllm(name)}[{WINDOW}])", by)


def dashboard() -> Dashboard:
    return page(
        "baton-engines",
        "Baton / Engines",
        "Each worker's engine: batch, steps, cache, tokens. Metrics that begin with vllm: are vLLM's own.",
        {
            "Batches": (
                graph(
                    "Requests running",
                    "Requests in each engine's batch. At max_num_seqs, the next ones wait.",
                    COUNT,
                    Query(total(vllm("num_requests_running"), by="worker"), "{{worker}}"),
                ),
                graph(
                    "Requests waiting in the engine",
                    "Above 0 for long: routers give the engine more than it can do; its KV cache is full, or its batch is.",
                    COUNT,
                    Query(total(vllm("num_requests_waiting"), by="worker"), "{{worker}}"),
                ),
                graph(
                    "Legs taken on",
                    "Parts of requests that routers have on each worker. It returns to zero without load; if not, report it.",
                    COUNT,
                    Query(level(w.LEGS, by="worker"), "{{worker}}"),
                ),
                graph(
                    "Preemptions",
                    "Requests per second that lost their blocks to others and begin anew: too little KV memory. Add decode workers, or "
                    "leave more memory for KV (gpu_memory_utilization).",
                    COUNT,
                    Query(_rate("num_preemptions_total"), "{{worker}}"),
                ),
            ),
            "Steps": (
                graph(
                    "Decode steps",
                    "Engine steps that made one token of each running request and nothing else. Grow with batch and context; beyond what "
                    "these explain, something else uses the GPU.",
                    SECONDS,
                    Query(quantile(0.5, w.STEP, 'work="decode"', by="worker"), "{{worker}} p50"),
                    Query(quantile(0.9, w.STEP, 'work="decode"', by="worker"), "{{worker}} p90"),
                ),
                graph(
                    "Steps with prompts in them",
                    "Engine steps that computed some of a prompt, and perhaps decodes beside: these hold answers up. Long on decode "
                    "workers: a smaller max_num_batched_tokens, or more prefill workers.",
                    SECONDS,
                    Query(quantile(0.5, w.STEP, 'work="prompt"', by="worker"), "{{worker}} p50"),
                    Query(quantile(0.9, w.STEP, 'work="prompt"', by="worker"), "{{worker}} p90"),
                ),
                graph(
                    "Prompt tokens",
                    "Per second, cached ones included. Prefill workers should have most of them.",
                    TOKENS,
                    Query(_rate("prompt_tokens_total"), "{{worker}}"),
                    stacked=True,
                ),
                graph(
                    "Output tokens",
                    "Per second. A prefill worker makes one per request, decode workers the rest.",
                    TOKENS,
                    Query(_rate("generation_tokens_total"), "{{worker}}"),
                    stacked=True,
                ),
            ),
            "Caches": (
                graph(
                    "KV cache in use",
                    "As vLLM has it. Near 100 %: preemptions follow, and requests wait in the engine.",
                    RATIO,
                    Query(total(vllm("kv_cache_usage_perc"), by="worker", how="max"), "{{worker}}"),
                    most=1,
                    width=8,
                ),
                graph(
                    "Prefix cache hits",
                    "Share of prompt tokens the engine found in its own cache. Lower than the Balancer dashboard's: blocks were evicted "
                    "before their request came.",
                    RATIO,
                    Query(f"{_rate('prefix_cache_hits_total')} / {_rate('prefix_cache_queries_total')}", "{{worker}}"),
                    most=1,
                    width=8,
                ),
                graph(
                    "Prompt tokens from other engines",
                    "Tokens per second whose KV the engine took from another one. None on decode workers: nothing is handed over.",
                    TOKENS,
                    Query(_rate("external_prefix_cache_hits_total"), "{{worker}}"),
                    width=8,
                ),
            ),
            "NIXL (none with simulated engines)": (
                graph(
                    "Transfer seconds",
                    "Seconds of each NIXL transfer, as the engine that pulls sees it. Far above bytes by bandwidth: descriptors are many "
                    "and small, or UCX uses TCP.",
                    SECONDS,
                    Query(f"histogram_quantile(0.9, {_rate('nixl_xfer_time_seconds_bucket', by='worker,le')})", "{{worker}} p90"),
                    width=8,
                ),
                graph(
                    "Bytes transferred",
                    "KV bytes per second, as NIXL counts them in the engine that pulls. The Pools dashboard has Baton's own count.",
                    BYTES_PER_S,
                    Query(_rate("nixl_bytes_transferred_sum"), "{{worker}}"),
                    width=8,
                ),
                graph(
                    "Failures",
                    "Transfers and notifications that failed, and requests whose KV expired, per second. Any: the worker's log; their "
                    "prompts are computed again.",
                    COUNT,
                    Query(_rate("nixl_num_failed_transfers_total"), "{{worker}} transfers"),
                    Query(_rate("nixl_num_failed_notifications_total"), "{{worker}} notifications"),
                    Query(_rate("nixl_num_kv_expired_reqs_total"), "{{worker}} expired"),
                    width=8,
                ),
            ),
        },
    )
