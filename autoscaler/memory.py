"""What Baton's scaler remembers from one plan to the next. All of it can be written down as JSON and read again."""

from __future__ import annotations

import msgspec

from autoscaler.capacity import Engine
from autoscaler.forecast import Track
from autoscaler.signals import WorkerSignal
from autoscaler.usual import Before, Usual
from core.worker import EngineFacts, Role


class Wanted(msgspec.Struct, frozen=True):
    """How many workers of each role were wanted at one time."""

    at_s: float
    prefill: int
    decode: int

    def of(self, role: Role) -> int:
        """Of one role."""
        return self.prefill if role is Role.PREFILL else self.decode


class PoolMemory(msgspec.Struct, frozen=True):
    """Of one role."""

    track: Track = Track()
    engine: Engine | None = None
    """The last one that was measured: for when no worker is there."""
    facts: EngineFacts | None = None
    """What its engines have room for: known before they are measured, and still when none is there."""
    start_up_s: float | None = None
    """What its workers took to start."""
    target: int | None = None
    """What the last plan was to reach."""

    def seen(self, engine: Engine | None, workers: list[WorkerSignal]) -> PoolMemory:
        """With what its workers tell of themselves: the start-up time in the middle of theirs."""
        took_s = sorted(worker.start_up_s for worker in workers if worker.start_up_s is not None)
        start_up_s = took_s[len(took_s) // 2] if took_s else self.start_up_s
        facts = next((worker.facts for worker in workers if worker.facts is not None), self.facts)
        return msgspec.structs.replace(self, engine=engine or self.engine, facts=facts, start_up_s=start_up_s)


class BatonState(msgspec.Struct, frozen=True):
    """All of it."""

    prefill: PoolMemory = PoolMemory()
    decode: PoolMemory = PoolMemory()
    usual: Usual = Usual()
    before: Before = Before()
    wanted: tuple[Wanted, ...] = ()
    """Of the last ``ScalerPolicy.patience_s``, with a margin; of those alike in a row, the last."""
    watched_s: float | None = None
    """Since when ``wanted`` has no gap."""
    shrunk_s: float | None = None
    relabelled_s: float | None = None
    relabelled_to: Role | None = None
    busy_s: float | None = None
    """When somebody last wanted anything; the first plan counts as such a moment."""
    at_s: float | None = None
    """When the last plan was made."""

    def pool(self, role: Role) -> PoolMemory:
        """Of one role."""
        return self.prefill if role is Role.PREFILL else self.decode

    def with_pools(self, pools: dict[Role, PoolMemory]) -> BatonState:
        """With these."""
        return msgspec.structs.replace(self, prefill=pools[Role.PREFILL], decode=pools[Role.DECODE])

    def watching(self, wanted: Wanted, window_s: float) -> BatonState:
        """With what is wanted now; those alike are one."""
        kept = tuple(old for old in self.wanted if wanted.at_s - old.at_s <= window_s)
        if kept and (kept[-1].prefill, kept[-1].decode) == (wanted.prefill, wanted.decode):
            kept = kept[:-1]
        return msgspec.structs.replace(self, wanted=(*kept, wanted), watched_s=wanted.at_s if self.watched_s is None else self.watched_s)

    def at(self, now_s: float, most_s: float) -> tuple[BatonState, float]:
        """At the time of the next plan, and that time.

        After more than ``most_s`` without a plan nobody knows what was wanted meanwhile, or whether anything was. Where the clock was
        set back by less than that, it stands still until it is where it was; by more, and nothing is remembered that has a time."""
        past_s = 0.0 if self.at_s is None else now_s - self.at_s
        if past_s < -most_s:
            prefill, decode = (msgspec.structs.replace(pool, track=Track()) for pool in (self.prefill, self.decode))
            return BatonState(prefill, decode, msgspec.structs.replace(self.usual, at_s=None), at_s=now_s), now_s
        if past_s > most_s:
            return msgspec.structs.replace(self.looked_away(), busy_s=None, at_s=now_s), now_s
        now_s -= min(0.0, past_s)
        return msgspec.structs.replace(self, at_s=now_s), now_s

    def looked_away(self) -> BatonState:
        """Nothing is known of this moment: what was wanted before it does not count any more."""
        return msgspec.structs.replace(self, wanted=(), watched_s=None)
