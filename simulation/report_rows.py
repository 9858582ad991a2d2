"""A report in words: headed rows, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Iterator

from simulation.report import Report, Spread

Row = tuple[str, str]


def rows(report: Report) -> list[tuple[str, list[Row]]]:
    """Sections, each with its rows."""
    sections = [("", list(_outcome(report))), ("Latency", _latency(report)), ("Cluster", list(_cluster(report)))]
    if report.faults:
        sections.append(("Faults", list(_faults(report))))
    return sections


def text(report: Report) -> str:
    """For a terminal."""
    lines = [title(report)]
    for head, entries in rows(report):
        lines += ["", head] if head else [""]
        width = max(len(name) for name, _ in entries)
        lines += [f"  {name:<{width}}  {value}" for name, value in entries]
    return "\n".join(lines)


def title(report: Report) -> str:
    """One line."""
    workers = " and ".join(f"{count} {role}" for role, count in report.workers.items())
    return f"{report.trace} on {report.gpus:g} GPUs: {workers} workers of {report.model}, seed {report.seed}"


def _outcome(report: Report) -> Iterator[Row]:
    over = f"in {report.seconds:,.0f} s, {report.offered / report.seconds:,.2f} per second" if report.seconds else "at the same time"
    yield "offered", f"{report.offered:,} requests {over}"
    left_out = ((report.left_out, "longer than max_model_len"), (report.empty, "without tokens in prompt or answer"))
    if any(count for count, _ in left_out):
        yield "left out", "of the trace: " + ", ".join(f"{count:,} {why}" for count, why in left_out if count)
    promised = [f"{name} {limit:g} s" for name, limit in (("TTFT", report.ttft_objective_s), ("TPOT", report.tpot_objective_s)) if limit]
    yield "promised", ", ".join(promised) or "nothing: every complete answer is good; `objectives` in the configuration says otherwise"
    per_gpu = report.goodput_per_s / report.gpus if report.gpus else 0.0
    yield "good", f"{report.attainment:.1%} of those offered: {report.goodput_per_s:.2f} per second, {per_gpu:.4f} per GPU"
    yield "complete", f"{report.complete:,}"
    yield "refused", _counts(report.refused)
    yield "given up", _counts(report.given_up)


def _latency(report: Report) -> list[Row]:
    spreads = (("TTFT, s", report.ttft_s, 1.0), ("TPOT, ms", report.tpot_s, 1000.0), ("whole answer, s", report.e2e_s, 1.0))
    return [(name, _spread(each, unit)) for name, each, unit in spreads]


def _cluster(report: Report) -> Iterator[Row]:
    served = max(1, sum(report.plans.values()))
    yield "plans", ", ".join(f"{kind} {count:,} ({count / served:.1%})" for kind, count in report.plans.items())
    yield "GPU-hours", f"{report.gpu_hours:.2f}"
    yield "in steps", ", ".join(f"{role} {part:.0%} of the time" for role, part in report.busy.items())
    yield "cache hits", f"{report.hit_share:.1%} of prompt tokens"
    yield "KV moved", f"{report.kv_bytes / 1e9:,.1f} GB, {report.kv_bytes / 1e9 / max(report.seconds, 1e-9):.2f} GB/s"
    if (done := report.scaling) is not None:
        yield "autoscaler", f"{done.plans:,} plans: {done.relabelled} workers relabelled, {done.added} added, {done.drained} drained"


def _faults(report: Report) -> Iterator[Row]:
    for fault in report.faults:
        yield (
            f"at {fault.at_s:g} s",
            fault.what + ("" if fault.happened else " - did not happen: it was not there any more, or all was over"),
        )
    yield "carried on", f"{report.carried_on:,} requests by another worker, to the last token"
    if (cost := report.cost) is not None:
        yield (
            "than without",
            f"{-cost.good:+,} good requests, {-cost.failed:+,} complete; p99 of TTFT {cost.ttft_p99_s:+.3f} s, of TPOT "
            f"{cost.tpot_p99_s * 1000:+.1f} ms; {cost.gpu_hours:+.2f} GPU-hours",
        )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {why.replace('_', ' ')}" for why, count in counts.items()) or "none"


def _spread(each: Spread, unit: float) -> str:
    if not each.count:
        return "none"
    parts = (("mean", each.mean), ("p50", each.p50), ("p90", each.p90), ("p95", each.p95), ("p99", each.p99), ("max", each.max))
    return "  ".join(f"{name} {_number(value * unit)}" for name, value in parts)


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
