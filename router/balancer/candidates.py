"""Which plans are possible at all, and why the other workers are not in any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from core.ids import WorkerId
from core.worker import Role, WorkerState
from router.balancer.adapter_load import no_adapters, no_slot
from router.plan import Ask, Plan, View, WorkerView
from router.room import no_room_for_all, no_room_to_decode, no_room_to_prefill

TOO_LONG = "its KV cache has room for"


class Alone(Enum):
    """Which workers a policy considers for a whole request although it could be split."""

    NEVER = auto()
    DECODE = auto()
    """Decode workers: they compute the prompt in chunks between their steps. Not prefill workers: an answer there makes every prompt
    behind it slower, and bursts come unannounced. Who wants more workers to decode relabels some."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """All possible plans, not yet multiplied out: each of ``prefill`` with each of ``decode``, and each of ``alone``."""

    prefill: Sequence[WorkerId]
    decode: Sequence[WorkerId]
    alone: Sequence[WorkerId]
    rejected: Mapping[WorkerId, str]
    """Workers that are in none, and why."""
    kind: str
    """In words, what kind of plans these are."""
    full: Sequence[WorkerId] = ()
    """Prefill workers that have no room now and will have soon: waiting for one may be better than any plan that is possible now."""

    def __bool__(self) -> bool:
        return bool((self.prefill and self.decode) or self.alone)

    def plans(self) -> list[Plan]:
        """All of them, pairs first."""
        return [*(Plan(p, d) for p in self.prefill for d in self.decode), *(Plan(w, w) for w in self.alone)]


def candidates(ask: Ask, view: View, alone: Alone = Alone.NEVER) -> Candidates:
    """A request that can be split goes to every pair of a prefill and a decode worker with room, and to ``alone`` ones.

    Where one pool has nobody ready, the other serves alone. A pool that is only full is waited for, unless the policy considers
    workers alone anyway. An urgent request may always go to a decode worker alone.
    """
    rejected: dict[WorkerId, str] = {}
    prefill: list[WorkerId] = []
    decode: list[WorkerId] = []
    for worker, seen in view.items():
        if reason := _unfit(ask, worker, seen):
            rejected[worker] = reason
        elif seen.card.role is Role.PREFILL:
            prefill.append(worker)
        else:
            decode.append(worker)

    def with_room(pool: Sequence[WorkerId], no_room: Callable[[WorkerView, int], str | None]) -> list[WorkerId]:
        able: list[WorkerId] = []
        for worker in pool:
            reason = no_slot(ask, view[worker]) or no_room(view[worker], ask.prompt_tokens)
            if reason is None:
                able.append(worker)
            else:
                rejected[worker] = reason
        return able

    if ask.keeper is not None and decode:
        return Candidates([ask.keeper], with_room(decode, no_room_to_decode), (), rejected, "the prompt is computed already")
    if ask.splittable and prefill and decode:
        able, readers = with_room(prefill, no_room_to_prefill), with_room(decode, no_room_to_decode)
        if ask.urgent and alone is Alone.NEVER:
            alone = Alone.DECODE
        pool = readers if alone is Alone.DECODE else ()
        whole = [worker for worker in pool if no_room_for_all(view[worker], ask.prompt_tokens) is None]
        full = [worker for worker in prefill if worker in rejected] if whole and readers else []
        kind = "split, or alone where that is better" if whole else "split over two workers"
        return Candidates(able, readers, whole, rejected, kind, full)
    if ask.splittable:
        pool, why = decode or prefill, f"no {'decode' if prefill else 'prefill'} worker is ready"
    else:
        pool, why = ([*prefill, *decode] if alone is Alone.DECODE else prefill or decode), "cannot be split"
    return Candidates((), (), with_room(pool, no_room_for_all), rejected, f"one worker: {why}")


def _unfit(ask: Ask, worker: WorkerId, seen: WorkerView) -> str | None:
    card = seen.card
    if card.state is not WorkerState.READY:
        return str(card.state)
    if worker in ask.excluded:
        return "refused this request or was lost under it"
    if ask.prompt_tokens >= card.facts.num_blocks * card.facts.block_size_tokens:
        return f"{TOO_LONG} {card.facts.num_blocks * card.facts.block_size_tokens} tokens only"
    return no_adapters(ask, seen)
