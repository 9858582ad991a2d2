"""An answer for programs; docs/planning.md says what each field means."""

from __future__ import annotations

import math
from typing import Any

from deploy.plan.answer import LINKS_GBPS, Answer
from engine.performance.plan.engine_kind import EngineKind
from engine.performance.plan.ranking import Ranked


def told(answer: Answer) -> dict[str, Any]:
    """JSON's types only. What is without end is None."""
    question, workload = answer.question, answer.question.workload
    return {
        "model": question.model,
        "gpus": answer.stock.gpus,
        "workload": {
            "input_tokens": workload.input_tokens,
            "output_tokens": workload.output_tokens,
            "hit_rate": workload.hit_rate,
            "rate_per_s": question.rate_per_s,
        },
        "promised": {"ttft_s": question.asked.ttft_s, "tpot_s": question.asked.tpot_s, "share": question.asked.share},
        "verdict": answer.verdict,
        "verdict_at_limit": answer.plan.verdict,
        "disaggregate": answer.chosen[0].set_up.prefill is not None if answer.carries else None,
        "smallest": [_ranked(each) for each in answer.smallest],
        "ranked": [_ranked(each) for each in answer.plan.ranked],
        "networks": _networks(answer),
        "link_that_pays_gbps": answer.link_that_pays_gbps(),
        "unfit": list(answer.kinds.unfit),
        "took_s": answer.took_s,
    }


def _ranked(ranked: Ranked) -> dict[str, Any]:
    set_up = ranked.set_up
    return {
        "prefill": None if set_up.prefill is None else _pool(set_up.prefill, set_up.prefill_workers),
        "decode": _pool(set_up.decode, set_up.decode_workers),
        "gpus": set_up.gpus,
        "rate_per_s": ranked.rate_per_s,
        "most_per_s": ranked.most_per_s,
        "goodput_per_gpu": ranked.goodput_per_gpu,
        "output_tokens_per_s_per_gpu": ranked.tokens_per_s_per_gpu,
        "ttft_s": ranked.pace.ttft_s,
        "tpot_s": ranked.pace.tpot_s,
        "batch": ranked.pace.batch,
        "dollars_per_h": set_up.price_per_h or None,
        "dollars_per_million_tokens": ranked.price_per_million_tokens or None,
        "bound_by": ranked.bound_by,
        "kv_gbps_per_gpu": ranked.gpu_bytes_per_s * 8.0 / 1e9,
        "handover_s": ranked.handover_s if math.isfinite(ranked.handover_s) else None,
    }


def _pool(kind: EngineKind, workers: int) -> dict[str, Any]:
    layout, memory = kind.roofline.setup.layout, kind.memory
    return {
        "workers": workers,
        "gpu": kind.gpu,
        "tensor_parallel_size": layout.tp,
        "expert_parallel_size": layout.ep,
        "max_num_batched_tokens": kind.budget_tokens,
        "weight_bytes_per_gpu": memory.weight_bytes,
        "kv_bytes_per_gpu": memory.kv_bytes,
        "kv_tokens": kind.kv_tokens,
        "largest_batch": kind.max_batch * kind.groups,
    }


def _networks(answer: Answer) -> list[dict[str, Any]]:
    if answer.split is None:
        return []
    found = [(gbps, answer.over(answer.split, gbps)) for gbps in LINKS_GBPS]
    return [{"gbps_per_gpu": gbps, "rate_per_s": each.rate_per_s if each is not None else 0.0} for gbps, each in found]
