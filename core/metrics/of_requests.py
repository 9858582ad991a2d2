"""What routers tell of requests, of hand-overs, and of what they predicted."""

from __future__ import annotations

from core.metrics import bounds
from core.metrics.entry import counter, gauge, histogram
from core.metrics.words import Decided, Handoff, Kept, Outcome, Part, PlanKind, SpanFate, TokenSource, Why, values

ARRIVALS = counter(
    "baton_arrivals_total",
    ("class",),
    "Requests that were read and taken in, whatever became of them; `n=3` is three",
    "the demand, in requests; with `baton_prompt_tokens_total` and `baton_output_tokens_total` in tokens",
)
REQUESTS = counter(
    "baton_requests_total",
    ("class", "plan", "outcome"),
    f"Requests that ended. `plan`: {values(PlanKind)}; `outcome`: {values(Outcome)}",
    "`lost`, `engine`, `timed_out`: read `GET /v1/baton/requests` and the workers' logs. Much `local` where pairs are expected: "
    "one worker is predicted to be faster; [decisions.md](decisions.md) says why",
)
RESUMED = counter(
    "baton_resumed_requests_total",
    ("class", "outcome"),
    "Those of them that another worker went on with, or began anew, because theirs ended or had to go",
    "workers die, or are drained: see `baton_pool_ends_total` and `baton_pool_drains_total`",
)
ENGINE_LOSSES = counter(
    "baton_engine_losses_total",
    (),
    "Engines that ended under a request, or were cut off from it; one that ends under ten counts ten",
    "as above; without a worker that ended, it is the network: raise `router.worker_timeout_s`",
)
REFUSALS = counter(
    "baton_refusals_total",
    ("class", "reason"),
    f"Requests refused at the door or in the queue. `reason`: {values(Why)}. `class` is empty where it was not known yet",
    "`queue_full`, `long_wait`, `ttft`, `tpot`, `waited`: more is asked than the workers can do; add workers, or promise less. "
    "`no_worker`: `baton status`. `too_long`: promise more for long prompts",
)
OBJECTIVES = counter(
    "baton_objective_requests_total",
    ("class", "result"),
    f"Requests that were promised something, by whether they got it: goodput is `met` of all. `result`: {values(Kept)}. "
    "A client that left before anything was missed does not count",
    "which promise is missed says which pool is short: `missed_ttft` prefill, `missed_tpot` decode",
)
TTFT = histogram(
    "baton_ttft_seconds",
    ("class",),
    bounds.FIRST_TOKEN_S,
    "Time to the first token, from the router's having read the request",
    "see which phase of `baton_phase_seconds` has grown",
)
TPOT = histogram(
    "baton_tpot_seconds",
    ("class",),
    bounds.TOKEN_S,
    "Mean time per token after the first, of answers that came to their end",
    "decode workers have too much to do, or compute prompts beside: `baton_worker_step_seconds`",
)
GAP = histogram(
    "baton_token_gap_seconds",
    ("class",),
    bounds.TOKEN_S,
    "Between two messages of a worker with tokens of the same request: the pauses that clients see",
    "its tail grows while `baton_tpot_seconds` does not: prompts hold up answers, preemptions, lost workers",
)
REQUEST = histogram(
    "baton_request_seconds",
    ("class",),
    bounds.REQUEST_S,
    "From arrival to the last token, of answers that came to their end",
    "longer answers, or slower ones: compare with `baton_output_tokens_total`",
)
PHASE = histogram(
    "baton_phase_seconds",
    ("phase",),
    bounds.PHASE_S,
    f"Where the time of those went, all attempts together; phases follow each other without a gap: {values(Part)}",
    "`queue`: workers are full. `engine_queue`, `prefill`: prefill is. `handoff_wait`, `decode_wait`: decode is. `transfer`: the link",
)
PROMPT_TOKENS = counter("baton_prompt_tokens_total", ("class",), "Prompt tokens of requests taken in", "the demand on prefill, less hits")
OUTPUT_TOKENS = counter("baton_output_tokens_total", ("class",), "Tokens given to clients", "the demand on decode, as far as it is served")
TENANT_TOKENS = counter(
    "baton_tenant_tokens_total",
    ("tenant", "kind"),
    "Tokens of requests that ended, by whom they are counted for: configured tenants and `default` by name, all others as `other`",
    "one tenant has most of it: weigh it, docs/objectives.md",
)
HANDOFFS = counter(
    "baton_handoffs_total",
    ("result",),
    f"Prompts that a decode worker took over. `result`: {values(Handoff)}",
    "any `recomputed`: disaggregation bought nothing for these. Leases that expire (`baton_worker_expired_leases_total`) or pulls that "
    "fail (the decode worker's log)",
)
HANDOFF_TOKENS = counter(
    "baton_handoff_tokens_total",
    ("source",),
    f"Their prompt tokens by where decode had the KV from: {values(TokenSource)}. The one token that is always computed does not count",
    "`recomputed` grows: as above",
)
KV_TRANSFERS = counter(
    "baton_kv_transfers_total",
    ("prefill", "decode"),
    "KV pulls that are complete, by pair of workers; pairs beyond a router's 1,024th are `other`",
    "a worker that is missing is given nothing: docs/policies.md",
)
KV_BYTES = counter("baton_kv_transfer_bytes_total", ("prefill", "decode"), "Bytes they moved", "bandwidth is its rate by that of the next")
KV_SECONDS = counter(
    "baton_kv_transfer_seconds_total",
    ("prefill", "decode"),
    "Seconds they took; pulls that overlap count each",
    "one pair is slow: its nodes are far apart, or UCX has fallen back to TCP",
)
KV_BANDWIDTH = gauge(
    "baton_kv_transfer_bytes_per_second",
    ("prefill", "decode"),
    "Bandwidth of the newest of them",
    "far below the network's: `UCX_TLS`, `kv_transfer.options`; below 12.5e9 (100 Gb/s) disaggregation pays for little",
)
PREFIX_HITS = counter(
    "baton_prefix_hit_tokens_total",
    ("worker", "role"),
    "Prompt tokens that the worker which began with a request had in its cache",
    "falls on all workers: other prompts, too little KV memory, or a policy that ignores caches",
)
PREFIX_ASKED = counter(
    "baton_prefix_prompt_tokens_total", ("worker", "role"), "All tokens of those prompts", "the hit rate is the rate of the one above by it"
)
DECISION = histogram(
    "baton_decision_seconds",
    ("result",),
    bounds.DECISION_S,
    f"Seconds of the router's thread per look for workers, with what it asked of caches and queue. `result`: {values(Decided)}",
    "above 5 ms: a router has too many workers to look at, or too little CPU; add `router.replicas`",
)
LEG_REFUSALS = counter(
    "baton_router_leg_refusals_total",
    ("worker", "role"),
    "Times a worker had no room for what it was sent, or could not be reached; the request is offered elsewhere",
    "all workers: full. One: its `max_prefill_tokens` or `headroom_tokens` differ, or it drains",
)
ROUTER_REQUESTS = gauge(
    "baton_router_requests", (), "Requests this router has and has not ended", "returns to zero without load; if not, report it"
)
DECODING_REQUESTS = gauge(
    "baton_router_decoding_requests",
    (),
    "Those of them whose client has a first token and not the last",
    "with the ones that wait for their prompt, the load of both pools: what the autoscaler goes by",
)
WAITING_REQUESTS = gauge("baton_router_waiting_requests", (), "Those no worker has room for", "rising: add workers, or expect 429")
WAITING_TOKENS = gauge("baton_router_waiting_tokens", (), "Tokens to be computed for those", "divided by the pools' rate: the wait")
OLDEST_WAITING = gauge(
    "baton_router_oldest_waiting_seconds",
    (),
    "How long the one has waited that waits longest",
    "near `router.queue.max_wait_s`: 429 follow",
)
OUTSTANDING_LEGS = gauge(
    "baton_router_outstanding_legs",
    ("worker", "role"),
    "Parts of requests this router has there or plans; workers it cannot reach are missing",
    "one far above the others: it is slow",
)
TRACE_SPANS = counter(
    "baton_router_trace_spans_total",
    ("result",),
    f"Spans of traces that ended here. `result`: {values(SpanFate)}. All zero where tracing is off",
    "`failed`: the collector of `tracing.otlp_endpoint` is away or says no. `dropped`: it is too slow; lower `tracing.sample`",
)
PREDICTION_ERROR = histogram(
    "baton_prediction_error_ratio",
    ("quantity", "role"),
    bounds.ERROR_RATIO,
    "How far off predictions were, relative to what happened. `quantity`: `ttft`, `tpot`, `queue`, `transfer`, `output_tokens`",
    "its upper buckets grow: decisions rest on guesses; see which quantity",
)
PREDICTION_MEDIAN = gauge(
    "baton_prediction_median_error_ratio",
    ("quantity", "role"),
    "The median of the newest 512",
    "above 0.5 for `ttft` or `tpot`: a worker's steps are not what they were, or something else uses the machine",
)
PREDICTION_BIAS = gauge(
    "baton_prediction_bias_ratio",
    ("quantity", "role"),
    "The same with its sign: above 0 too much is predicted",
    "far below 0 for `ttft`: work arrives that this router does not see",
)

OF_REQUESTS = (
    *(ARRIVALS, REQUESTS, RESUMED, ENGINE_LOSSES, REFUSALS, OBJECTIVES),
    *(TTFT, TPOT, GAP, REQUEST, PHASE),
    *(PROMPT_TOKENS, OUTPUT_TOKENS, TENANT_TOKENS),
)
OF_HANDOFFS = (HANDOFFS, HANDOFF_TOKENS, KV_TRANSFERS, KV_BYTES, KV_SECONDS, KV_BANDWIDTH, PREFIX_HITS, PREFIX_ASKED)
OF_ROUTERS = (
    *(DECISION, LEG_REFUSALS),
    *(ROUTER_REQUESTS, DECODING_REQUESTS, WAITING_REQUESTS, WAITING_TOKENS, OLDEST_WAITING, OUTSTANDING_LEGS, TRACE_SPANS),
    *(PREDICTION_ERROR, PREDICTION_MEDIAN, PREDICTION_BIAS),
)
