"""What it takes, and costs others, to have a worker load the LoRA adapter of a request."""

from __future__ import annotations

from dataclasses import dataclass

from core.ids import WorkerId
from router.plan import Ask, View, WorkerView


@dataclass(frozen=True, slots=True)
class Loading:
    """In seconds, all."""

    own_s: float = 0.0
    """The request waits so long for it."""
    others_s: float = 0.0
    """What others lose: an engine makes no step meanwhile, and whose adapter has to go will have it loaded again."""

    @property
    def cost_s(self) -> float:
        return self.own_s + self.others_s


NOTHING_TO_LOAD = Loading()


def loading(ask: Ask, worker: WorkerId, seen: WorkerView) -> Loading:
    """For a request on a worker. Nothing where the adapter is there, or on its way: then there is less to wait for, or nothing."""
    held = seen.load.adapters
    if ask.adapter is None or held is None or ask.adapter in held.names or worker in ask.adapter_promised:
        return NOTHING_TO_LOAD
    evicts = len(held.names) >= held.slots
    return Loading(held.load_s, held.load_s * (seen.decoding + evicts))


def no_adapters(ask: Ask, seen: WorkerView) -> str | None:
    """Why a worker can never have the request's adapter: one from before there were any."""
    return "it takes no adapters" if ask.adapter is not None and not seen.card.facts.adapter_slots else None


def no_slot(ask: Ask, seen: WorkerView) -> str | None:
    """Why a worker cannot have the request's adapter loaded now."""
    if ask.adapter is None or seen.card.worker in ask.adapter_promised:
        return None
    held = seen.load.adapters
    if held is not None and ask.adapter not in held.names and held.is_full:
        return f"requests with other adapters have all its {held.slots} slots"
    return None


def holders(ask: Ask, view: View) -> list[WorkerId]:
    """Who has the request's adapter, or will soon."""
    name = ask.adapter
    if name is None:
        return []
    return [
        worker
        for worker, seen in view.items()
        if worker in ask.adapter_promised or (seen.load.adapters is not None and name in seen.load.adapters.names)
    ]
