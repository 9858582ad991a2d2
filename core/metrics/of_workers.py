"""What a worker tells of itself. Every one also has the labels ``worker`` and ``role``."""

from __future__ import annotations

from core.metrics import bounds
from core.metrics.entry import counter, gauge, histogram
from core.metrics.words import AdapterFate, LegRefusal, SpanFate, StepKind, values

RUNNING = gauge("baton_worker_running_requests", (), "Requests in the engine's batch", "at `max_num_seqs`: the next ones wait")
WAITING = gauge(
    "baton_worker_waiting_requests", (), "Requests in the engine's queue", "above 0 for long: routers give it more than it can do"
)
LEGS = gauge("baton_worker_legs", (), "Parts of requests that routers have there", "returns to zero without load; if not, report it")
BLOCKS = gauge("baton_worker_kv_blocks", (), "KV blocks of its cache", "changes with the memory the model leaves, at a restart")
FREE_BLOCKS = gauge(
    "baton_worker_free_kv_blocks", (), "Those nobody holds", "near zero on decode: answers are refused or preempted; add decode workers"
)
LEASED_BLOCKS = gauge(
    "baton_worker_leased_kv_blocks",
    (),
    "Those kept for a decode worker that has not read them yet",
    "high and steady: decode is the bottleneck, or the link",
)
STRANDED_BLOCKS = gauge(
    "baton_worker_stranded_kv_blocks",
    (),
    "Those kept past the end of their lease and not free yet",
    "above zero for seconds: the engine does not step; look at its worker's log",
)
DRAINING = gauge("baton_worker_draining", (), "1 once it takes nothing new", "see docs/draining.md")
EXPIRED_LEASES = counter(
    "baton_worker_expired_leases_total",
    (),
    "Leases that ended because nobody came for the KV in time",
    "decode workers are too busy to pull: raise `kv_transfer.lease_s`, or add some",
)
REFUSED_LEGS = counter(
    "baton_worker_refused_legs_total",
    ("reason",),
    f"Legs it did not take. `reason`: {values(LegRefusal)}",
    "`no_room` while others idle: routers see it wrongly; report it",
)
RECEIVED_BYTES = counter("baton_worker_received_kv_bytes_total", (), "KV bytes it pulled from others", "its share of the link")
COMPUTED_TOKENS = counter(
    "baton_worker_computed_prompt_tokens_total",
    (),
    "Prompt tokens it computed itself, neither cached nor pulled",
    "grows on decode workers: whole requests, or prompts that are computed again (`baton_handoffs_total`)",
)
STEP = histogram(
    "baton_worker_step_seconds",
    ("work",),
    bounds.STEP_S,
    f"Engine steps that computed anything, as requests feel them. `work`: {values(StepKind)}",
    "`decode` grows with batch and context; beyond what they explain, something else uses the GPU",
)
TRACE_SPANS = counter(
    "baton_worker_trace_spans_total",
    ("result",),
    f"Spans of traces that ended here. `result`: {values(SpanFate)}. All zero where tracing is off",
    "as for `baton_router_trace_spans_total`",
)

LOADED_ADAPTERS = gauge(
    "baton_worker_loaded_adapters",
    (),
    "LoRA adapters it holds",
    "at `lora.max_loaded` is usual; see the loads",
)
ADAPTER_LOADS = counter(
    "baton_worker_adapter_loads_total",
    ("result",),
    f"LoRA adapters it was to load. `result`: {values(AdapterFate)}",
    "`loaded` grows steadily: more adapters are asked for than fit, raise `lora.max_loaded`; `failed`: its log says why, docs/lora.md",
)

OF_WORKERS = (
    *(RUNNING, WAITING, LEGS, BLOCKS, FREE_BLOCKS, LEASED_BLOCKS, STRANDED_BLOCKS, DRAINING),
    *(EXPIRED_LEASES, REFUSED_LEGS, RECEIVED_BYTES, COMPUTED_TOKENS, STEP, TRACE_SPANS),
    *(LOADED_ADAPTERS, ADAPTER_LOADS),
)
