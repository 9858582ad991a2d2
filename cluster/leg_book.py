"""The legs of one worker: whose each is, what kind, how long, and how many tokens it has told. Pure book-keeping."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.admission import Room, blocks, computes_prompt
from cluster.messages import AddLeg, LegKind
from core.ids import LegId, RouterId
from core.worker import EngineFacts, OthersLoad, WorkerLoad


@dataclass(slots=True)
class Leg:
    """One leg that was taken and has not ended."""

    owner: RouterId
    kind: LegKind
    tokens: int
    computes_prompt: bool
    adapter: str | None = None
    """The LoRA adapter it is done with."""
    told_tokens: int = 0

    @property
    def has_token(self) -> bool:
        return self.told_tokens > 0


@dataclass(slots=True)
class _Sums:
    """An ``OthersLoad`` in the making: of one router's legs, or of all."""

    legs: int = 0
    prompt_tokens: int = 0
    decoding: int = 0
    context_tokens: int = 0
    arriving_tokens: int = 0

    def add(self, leg: Leg, sign: int) -> None:
        """Counts a leg as it is now, or takes it out."""
        self.legs += sign
        if leg.has_token:
            self.decoding += sign
            self.context_tokens += sign * (leg.tokens + leg.told_tokens)
        elif leg.computes_prompt:
            self.prompt_tokens += sign * leg.tokens
        else:
            self.arriving_tokens += sign * leg.tokens


_NOTHING = _Sums()


class LegBook:
    """Every leg is entered once and ended once; ending an unknown one is no error."""

    def __init__(self) -> None:
        self._legs: dict[LegId, Leg] = {}
        self._all = _Sums()
        self._sums: dict[RouterId, _Sums] = {}
        """Of routers that have legs here: what one is told of the others is asked for in every step."""
        self._queued: dict[RouterId, int] = {}
        """Of routers with whom somebody waits."""
        self._all_queued = 0
        self._adapters: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._legs)

    def enter(self, owner: RouterId, add: AddLeg, adapter: str | None = None) -> None:
        """The leg was taken."""
        self.end(add.leg)
        leg = self._legs[add.leg] = Leg(owner, add.kind, add.tokens, computes_prompt(add), adapter)
        self._count(leg, 1)

    def get(self, leg: LegId) -> Leg | None:
        """None once it has ended."""
        return self._legs.get(leg)

    def told(self, leg: Leg, tokens: int) -> None:
        """So many output tokens of a leg that is in the book have passed. Called for every leg in every step."""
        own = self._sums[leg.owner]
        if leg.told_tokens:
            own.context_tokens += tokens
            self._all.context_tokens += tokens
            leg.told_tokens += tokens
            return
        for sums in (own, self._all):
            sums.add(leg, -1)
        leg.told_tokens = tokens
        for sums in (own, self._all):
            sums.add(leg, 1)

    def end(self, leg: LegId) -> None:
        """The leg finished, was aborted or failed."""
        ended = self._legs.pop(leg, None)
        if ended is not None:
            self._count(ended, -1)

    def clear(self) -> None:
        """All of them ended."""
        self._legs.clear()
        self._sums.clear()
        self._adapters.clear()
        self._all = _Sums()

    def queued(self, router: RouterId, tokens: int) -> None:
        """So many prompt tokens wait with a router now; 0, too, when it is gone."""
        self._all_queued += tokens - self._queued.pop(router, 0)
        if tokens:
            self._queued[router] = tokens

    def others(self, router: RouterId) -> OthersLoad:
        """What is there for all routers but this one, and waits with them."""
        everyone, own = self._all, self._sums.get(router, _NOTHING)
        return OthersLoad(
            legs=everyone.legs - own.legs,
            prompt_tokens=everyone.prompt_tokens - own.prompt_tokens,
            decoding=everyone.decoding - own.decoding,
            context_tokens=everyone.context_tokens - own.context_tokens,
            queued_tokens=self._all_queued - self._queued.get(router, 0),
            arriving_tokens=everyone.arriving_tokens - own.arriving_tokens,
        )

    def _count(self, leg: Leg, sign: int) -> None:
        own = self._sums.setdefault(leg.owner, _Sums())
        own.add(leg, sign)
        self._all.add(leg, sign)
        if not own.legs:
            del self._sums[leg.owner]
        if leg.adapter is not None:
            self._adapters[leg.adapter] += sign
            if not self._adapters[leg.adapter]:
                del self._adapters[leg.adapter]

    def uses(self, adapter: str) -> bool:
        """Whether a leg is with that adapter."""
        return adapter in self._adapters

    @property
    def adapters_in_use(self) -> int:
        """How many different ones legs are with."""
        return len(self._adapters)

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
