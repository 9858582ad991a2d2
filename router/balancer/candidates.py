"""Which plans are possible at all, and why the other workers are not in any."""

from __future__ import annotations

from collections.abc import Callable

from core.ids import WorkerId
from core.worker import Role, WorkerState
from router.plan import Ask, Plan, View, WorkerView
from router.room import no_room_for_all, no_room_to_decode, no_room_to_prefill

TOO_LONG = "its KV cache has room for"


def candidates(ask: Ask, view: View) -> tuple[list[Plan], dict[WorkerId, str], str]:
    """All possible plans, the workers that are in none with the reason, and in words what kind of plans these are.

    A request that can be split goes to every pair of a prefill and a decode worker with room. Where one pool has nobody
    ready, the other serves alone: roles are labels, every engine can do both. A pool that is only full is waited for. An
    urgent one may also go to a decode worker alone.
    """
    rejected = {worker: reason for worker in view if (reason := _unfit(ask, worker, view))}
    prefill = [w for w, seen in view.items() if w not in rejected and seen.card.role is Role.PREFILL]
    decode = [w for w, seen in view.items() if w not in rejected and seen.card.role is Role.DECODE]

    def with_room(pool: list[WorkerId], no_room: Callable[[WorkerView, int], str | None]) -> list[WorkerId]:
        full = {w: reason for w in pool if (reason := no_room(view[w], ask.prompt_tokens))}
        rejected.update(full)
        return [w for w in pool if w not in full]

    if ask.keeper is not None and decode:
        return [Plan(ask.keeper, d) for d in with_room(decode, no_room_to_decode)], rejected, "the prompt is computed already"
    if ask.splittable and prefill and decode:
        able, readers = with_room(prefill, no_room_to_prefill), with_room(decode, no_room_to_decode)
        pairs = [Plan(p, d) for p in able for d in readers]
        if not ask.urgent:
            return pairs, rejected, "split over two workers"
        alone = with_room(readers, no_room_for_all)
        return [*pairs, *(Plan(d, d) for d in alone)], rejected, "split, or alone where that is sooner"
    pool = (prefill or decode) if not ask.splittable else (decode or prefill)
    why = "cannot be split" if not ask.splittable else f"no {'decode' if prefill else 'prefill'} worker is ready"
    return [Plan(w, w) for w in with_room(pool, no_room_for_all)], rejected, f"one worker: {why}"


def _unfit(ask: Ask, worker: WorkerId, view: View) -> str | None:
    card = view[worker].card
    if card.state is not WorkerState.READY:
        return str(card.state)
    if worker in ask.excluded:
        return "refused this request or was lost under it"
    if ask.prompt_tokens >= card.facts.num_blocks * card.facts.block_size_tokens:
        return f"{TOO_LONG} {card.facts.num_blocks * card.facts.block_size_tokens} tokens only"
    return None
