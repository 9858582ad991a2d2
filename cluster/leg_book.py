"""The legs of one worker: whose each is, what kind, how long, and whether it has told a token yet. Pure book-keeping."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.admission import Room, blocks, computes_prompt
from cluster.messages import AddLeg, LegKind
from core.ids import LegId, RouterId
from core.worker import EngineFacts, WorkerLoad


@dataclass(slots=True)
class Leg:
    """One leg that was taken and has not ended."""

    owner: RouterId
    kind: LegKind
    tokens: int
    computes_prompt: bool
    has_token: bool = False


class LegBook:
    """Every leg is entered once and ended once; ending an unknown one is no error."""

    def __init__(self) -> None:
        self._legs: dict[LegId, Leg] = {}

    def __len__(self) -> int:
        return len(self._legs)

    def enter(self, owner: RouterId, add: AddLeg) -> None:
        """The leg was taken."""
        self._legs[add.leg] = Leg(owner, add.kind, add.tokens, computes_prompt(add))

    def get(self, leg: LegId) -> Leg | None:
        """None once it has ended."""
        return self._legs.get(leg)

    def end(self, leg: LegId) -> None:
        """The leg finished, was aborted or failed."""
        self._legs.pop(leg, None)

    def clear(self) -> None:
        """All of them ended."""
        self._legs.clear()

    def of_owner(self, owner: RouterId) -> list[LegId]:
        """One router's legs."""
        return [name for name, leg in self._legs.items() if leg.owner == owner]

    def by_owner(self) -> dict[RouterId, list[LegId]]:
        """Every router's legs."""
        legs: dict[RouterId, list[LegId]] = defaultdict(list)
        for name, leg in self._legs.items():
            legs[leg.owner].append(name)
        return legs

    def room(self, facts: EngineFacts, load: WorkerLoad) -> Room:
        """What admission decides by."""
        silent: Sequence[Leg] = [leg for leg in self._legs.values() if not leg.has_token]
        return Room(
            facts=facts,
            load=load,
            legs=len(self._legs),
            growing_legs=sum(leg.kind is not LegKind.PREFILL for leg in self._legs.values()),
            prompt_tokens=sum(leg.tokens for leg in silent if leg.computes_prompt),
            unseen_blocks=sum(blocks(leg.tokens, facts) for leg in silent),
        )
