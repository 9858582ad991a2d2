"""Why a request went where it went: what is behind ``GET /v1/baton/decisions/{id}`` and the ``x-baton-decision`` header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.plan import Scored
from router.timeline import Made, Timeline


def explained(timeline: Timeline) -> dict[str, Any]:
    """The newest plans of one request with what was predicted, term by term, and what then really happened. Times in seconds."""
    return {
        "request": timeline.request,
        "outcome": timeline.outcome,
        "attempts": timeline.attempts,
        "decisions": [_made(made) for made in timeline.decisions],
        "happened": {
            "prefill_worker": timeline.prefill_worker,
            "decode_worker": timeline.decode_worker,
            "ttft_s": timeline.first_token_s,
            "tpot_s": timeline.tpot_s,
            "output_tokens": timeline.output_tokens,
            "cached_tokens": timeline.cached_tokens,
            "transferred_tokens": timeline.transferred_tokens,
            "transfer_s": timeline.transfer_s,
            "waited_s": timeline.waited_s,
            "phases": timeline.phases,
        },
    }


def _made(made: Made) -> dict[str, Any]:
    ask, decision = made.ask, made.decision
    return {
        "at_s": made.at_s,
        "took_s": decision.took_s,
        "kind": decision.reason,
        "priced": decision.priced,
        "prompt_tokens": ask.prompt_tokens,
        "expected_output_tokens": ask.expected_tokens,
        "objective": {"ttft_s": ask.ttft_s, "tpot_s": ask.tpot_s},
        "chosen": _scored(decision.chosen, ask.hits) if decision.chosen is not None else None,
        "candidates": [_scored(candidate, ask.hits) for candidate in decision.candidates],
        "rejected": dict(decision.rejected),
    }


def _scored(scored: Scored, hits: Mapping[Any, int]) -> dict[str, Any]:
    plan = scored.plan
    return {
        "prefill": plan.prefill,
        "decode": plan.decode,
        "split": plan.is_split,
        "cost": scored.cost,
        "terms_s": dict(scored.terms),
        "ttft_s": scored.ttft_s,
        "tpot_s": scored.tpot_s,
        "cached_tokens": {"prefill": hits.get(plan.prefill, 0), "decode": hits.get(plan.decode, 0)},
        "reason": scored.reason,
    }


def in_short(made: Made) -> str:
    """One line, fit for a header: where to, at what predicted price, among how many."""
    chosen = made.decision.chosen
    if chosen is None:
        return ""
    plan = chosen.plan
    where = f"prefill={plan.prefill} decode={plan.decode}" if plan.is_split else f"whole={plan.decode}"
    foreseen = [f"{name}={value:.4g}" for name, value in (("ttft_s", chosen.ttft_s), ("tpot_s", chosen.tpot_s)) if value is not None]
    return " ".join([where, *foreseen, f"cost={chosen.cost:.4g}", f"candidates={made.decision.priced}"])
