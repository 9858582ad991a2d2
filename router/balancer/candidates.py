"""Which plans are possible at all, and why the other workers are not in any."""

from __future__ import annotations

from core.ids import WorkerId
from core.worker import Role, WorkerState
from router.plan import Ask, Plan, View


def candidates(ask: Ask, view: View) -> tuple[list[Plan], dict[WorkerId, str], str]:
    """All possible plans, the workers that are in none with the reason, and in words what kind of plans these are.

    A request that can be split goes to every pair of a prefill and a decode worker. Where one pool has nobody ready, the
    other serves alone: roles are labels, every engine can do both.
    """
    rejected = {worker: reason for worker in view if (reason := _unfit(ask, worker, view))}
    prefill = [w for w, seen in view.items() if w not in rejected and seen.card.role is Role.PREFILL]
    decode = [w for w, seen in view.items() if w not in rejected and seen.card.role is Role.DECODE]
    if ask.splittable and prefill and decode:
        return [Plan(p, d) for p in prefill for d in decode], rejected, "split over two workers"
    if not ask.splittable:
        return [Plan(w, w) for w in prefill or decode], rejected, "one worker: cannot be split"
    missing = "decode" if prefill else "prefill"
    return [Plan(w, w) for w in decode or prefill], rejected, f"one worker: no {missing} worker is ready"


def _unfit(ask: Ask, worker: WorkerId, view: View) -> str | None:
    card = view[worker].card
    if card.state is not WorkerState.READY:
        return str(card.state)
    if worker in ask.excluded:
        return "refused this request or was lost under it"
    if ask.prompt_tokens >= card.facts.num_blocks * card.facts.block_size_tokens:
        return f"its KV cache has room for {card.facts.num_blocks * card.facts.block_size_tokens} tokens only"
    return None
