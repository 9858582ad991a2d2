"""Workers as they come and go, their KV memory, and what they hand over."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from core.metrics import of_pools as p
from core.metrics import of_requests as r
from core.metrics import of_workers as w
from core.metrics.entry import Entry
from deploy.dashboards.page import page
from deploy.dashboards.panels import BYTES, BYTES_PER_S, COUNT, RATIO, SECONDS, TOKENS, Query, graph, rows
from deploy.dashboards.queries import increase, level, mean, quantile, rate, series, total

_PAIR = "prefill,decode"
_FREE, _BLOCKS = level(w.FREE_BLOCKS, by="worker,role"), level(w.BLOCKS, by="worker,role")
_LINKS = "The ten pairs that are worst off."


def dashboard() -> Dashboard:
    return page(
        "baton-pools",
        "Baton / Pools and KV transfer",
        "Workers as they come and go, their KV memory, and the KV they hand over.",
        {
            "Workers": (
                graph(
                    "Ready and wanted",
                    "Workers that take requests, and how many each pool is to have. Fewer for longer than a start takes: `baton status`.",
                    COUNT,
                    Query(level(p.WORKERS, 'state="ready"', by="role"), "{{role}} ready"),
                    Query(level(p.WANTED, by="role"), "{{role}} wanted"),
                ),
                graph(
                    "By state",
                    "One stays `starting` or `draining`: `baton status` says what it is at. `gone` are still to be replaced.",
                    COUNT,
                    Query(level(p.WORKERS, by="role,state"), "{{role}} {{state}}"),
                    stacked=True,
                ),
                rows(
                    "Workers",
                    "Every worker there is, its role and its state now. For its address, age and load: `baton status`.",
                    Query(f"{level(p.STATE, by='worker,role,state')} == 1"),
                    width=8,
                ),
                graph(
                    "Starts, restarts, drains, relabellings, sleeps",
                    "Workers asked for, those of them that replace one that died, workers asked to go, workers that came over from the "
                    "other pool, and workers that fell asleep, in each window. Restarts again and again: `failures` in `baton status` "
                    "says why they die.",
                    COUNT,
                    Query(increase(p.STARTS, by="role"), "{{role}} started"),
                    Query(increase(p.RESTARTS, by="role"), "{{role}} restarted"),
                    Query(increase(p.DRAINS, by="role"), "{{role}} drained"),
                    Query(increase(p.RELABELS, by="role"), "{{role}} relabelled"),
                    Query(increase(p.SLEEPS, by="role"), "{{role}} fell asleep"),
                    width=8,
                ),
                graph(
                    "Ends by cause",
                    "Workers that are gone, in each window. `died`: its log. `silent`: the node, or the network. `start_timeout`: the "
                    "model loads too slowly. `drained` is as it should be.",
                    COUNT,
                    Query(increase(p.ENDS, by="role,cause"), "{{role}} {{cause}}"),
                    width=8,
                ),
                graph(
                    "Seconds to start, to wake and to drain",
                    "Mean of the controller's life: from asking for a worker, or asking it to wake, to its being ready, and from asking "
                    "it to go to its end or its sleep. "
                    "Starts grow: a slow disk or hub, or no room. Drains near drain_timeout_s: answers are long, and are moved.",
                    SECONDS,
                    Query(_since_it_began(p.START), "{{role}} start"),
                    Query(_since_it_began(p.WAKE), "{{role}} wake"),
                    Query(_since_it_began(p.DRAIN), "{{role}} drain"),
                ),
                graph(
                    "The controller's loop",
                    "Hearing every worker, deciding, telling the routers; and rounds that raised. Above 1 s: a worker answers late, or Ray "
                    "does. Any failed round: the controller's log.",
                    SECONDS,
                    Query(quantile(0.9, p.STEP), "p90"),
                    Query(increase(p.FAILED_STEPS), "failed rounds"),
                    width=6,
                ),
                graph(
                    "Routers",
                    "Routers the controller has heard from lately. Fewer than router.replicas: `serve status`.",
                    COUNT,
                    Query(level(p.ROUTERS), "routers"),
                    width=6,
                ),
            ),
            "KV memory": (
                graph(
                    "KV cache in use",
                    "Share of each worker's KV blocks that somebody holds. Near 100 % on decode: answers are refused or preempted; add "
                    "decode workers, or leave more memory for KV.",
                    RATIO,
                    Query(f"1 - {_FREE} / {_BLOCKS}", "{{worker}}"),
                    most=1,
                ),
                graph(
                    "Blocks leased and stranded",
                    "Blocks kept for a decode worker that has not read them, and those kept past the end of their lease. Leased high and "
                    "steady: decode is the bottleneck, or the link. Stranded for seconds: the engine does not step; its worker's log.",
                    COUNT,
                    Query(level(w.LEASED_BLOCKS, by="worker"), "{{worker}} leased"),
                    Query(level(w.STRANDED_BLOCKS, by="worker"), "{{worker}} stranded"),
                ),
                graph(
                    "Leases that expired",
                    "Leases that ended because nobody came for the KV in time, in each window. Decode workers are too busy to pull: raise "
                    "kv_transfer.lease_s, or add some.",
                    COUNT,
                    Query(increase(w.EXPIRED_LEASES, by="worker"), "{{worker}}"),
                    width=8,
                ),
                graph(
                    "Prompt tokens computed",
                    "Per second, by the role of the worker; neither cached nor pulled. On decode workers: whole requests, or prompts that "
                    "are computed again (Prompts taken over, below).",
                    TOKENS,
                    Query(rate(w.COMPUTED_TOKENS, by="role"), "{{role}}"),
                    width=8,
                ),
                graph(
                    "Draining workers",
                    "Workers that take nothing new. More than you asked for: somebody's drain, or SIGTERM from outside; docs/draining.md.",
                    COUNT,
                    Query(level(w.DRAINING, by="role"), "{{role}}"),
                    width=8,
                ),
                graph(
                    "LoRA adapters loaded",
                    "Adapters each worker holds; at lora.max_loaded is usual. Zero where LoRA is off.",
                    COUNT,
                    Query(level(w.LOADED_ADAPTERS, by="worker"), "{{worker}}"),
                ),
                graph(
                    "Loads of LoRA adapters",
                    "Adapters loaded, or not, in each window. Steadily many: more are asked for than fit, raise lora.max_loaded. Any that "
                    "failed: the worker's log says why; docs/lora.md.",
                    COUNT,
                    Query(increase(w.ADAPTER_LOADS, by="role, result"), "{{role}} {{result}}"),
                ),
            ),
            "Hand-overs": (
                graph(
                    "Prompts taken over",
                    "Prompts a decode worker took over per second, by whether the KV came or was computed again. Any `recomputed`: two "
                    "workers bought nothing for these. Leases that expire, or pulls that fail (the decode worker's log).",
                    COUNT,
                    Query(rate(r.HANDOFFS, by="result"), "{{result}}"),
                    stacked=True,
                ),
                graph(
                    "Their tokens, by where the KV was from",
                    "Per second. `cached` costs nothing, `transferred` the link, `recomputed` the whole prompt once more.",
                    TOKENS,
                    Query(rate(r.HANDOFF_TOKENS, by="source"), "{{source}}"),
                    stacked=True,
                ),
                graph(
                    "KV pulled by each worker",
                    "Bytes per second that came from other workers: its share of the link.",
                    BYTES_PER_S,
                    Query(rate(w.RECEIVED_BYTES, by="worker"), "{{worker}}"),
                    stacked=True,
                ),
                graph(
                    "Size of a pull",
                    "Mean bytes of KV per hand-over. Grows with prompts; falls with what decode workers have cached.",
                    BYTES,
                    Query(f"{rate(r.KV_BYTES)} / {rate(r.KV_TRANSFERS)}", "mean"),
                ),
                graph(
                    "Bandwidth of the slowest pairs",
                    f"Bytes per second of the newest pull. {_LINKS} Far below the network's: UCX has fallen back to TCP, or nodes are "
                    "far apart. Below 12.5 GB/s (100 Gb/s) handing over pays for little.",
                    BYTES_PER_S,
                    Query(f"bottomk(10, {level(r.KV_BANDWIDTH, by=_PAIR, how='min')})", "{{prefill}} to {{decode}}"),
                ),
                graph(
                    "Seconds per pull, slowest pairs",
                    f"Mean. {_LINKS} One pair stands out: its nodes are far apart, or one of them is busy.",
                    SECONDS,
                    Query(f"topk(10, {rate(r.KV_SECONDS, by=_PAIR)} / {rate(r.KV_TRANSFERS, by=_PAIR)})", "{{prefill}} to {{decode}}"),
                ),
                graph(
                    "Seconds of the phase",
                    "What requests wait for the transfer, without what it overlaps with. Beyond the pulls themselves: decode workers begin "
                    "them late.",
                    SECONDS,
                    Query(quantile(0.5, r.PHASE, 'phase="transfer"'), "p50"),
                    Query(quantile(0.9, r.PHASE, 'phase="transfer"'), "p90"),
                    Query(mean(r.PHASE, 'phase="transfer"'), "mean"),
                    width=24,
                ),
            ),
        },
    )


def _since_it_began(entry: Entry) -> str:
    """Starts and drains are rare: a rate would be empty most of the time."""
    both = (total(series(entry, part=part), by="role") for part in ("sum", "count"))
    return " / ".join(both)
