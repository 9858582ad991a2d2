"""One worker as ``baton status`` and the console are told of it. Pure."""

from __future__ import annotations

from typing import Any

from cluster.lifecycle import WorkerRecord
from cluster.spec import WorkerReport


def worker_row(record: WorkerRecord, report: WorkerReport | None, now_s: float) -> dict[str, Any]:
    """Plain data. ``report`` is the newest; None: it has not said anything yet."""
    report = report or WorkerReport(record.phase)
    return {
        "worker": record.worker,
        "role": str(record.role),
        "state": str(record.state),
        "phase": record.phase,
        "epoch": record.epoch,
        "age_s": round(now_s - record.created_at_s, 1),
        "ready_after_s": record.ready_after_s and round(record.ready_after_s, 1),
        "restarts": record.restarts,
        "address": record.card.address if record.card else None,
        "node": report.node,
        "pid": report.pid,
        "running": report.load.running,
        "waiting": report.load.waiting,
        "free_blocks": report.load.free_blocks,
        "num_blocks": report.load.num_blocks,
        "leased_blocks": report.load.leased_blocks,
        "stranded_blocks": report.load.stranded_blocks,
        "draining_s": record.draining_since_s and round(now_s - record.draining_since_s, 1),
        "received_bytes": report.received_bytes,
        "computed_prompt_tokens": report.computed_prompt_tokens,
    }
