"""One simulated engine on a virtual clock: no event loop, no waiting; whoever holds the clock says what time it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

import msgspec

from core.ids import LegId
from engine.base import EngineStats, StepSample, Transfer
from engine.sim_blocks import BlockEvent
from engine.sim_config import SimulatedEngineConfig
from engine.sim_leap import LeapClock, StepTime
from engine.sim_request import Emitted, RemotePrompt, SimRequest
from engine.sim_scheduler import SimScheduler
from engine.sim_step import Pull, Step, StepResult

_LEAP_STEPS = 1_000_000


class Told(msgspec.Struct, frozen=True, gc=False):
    """All an engine says at one moment: what came of the step that ended then, and what it starts with the next."""

    at_s: float
    emitted: Sequence[Emitted] = ()
    transfers: Sequence[Transfer] = ()
    """Pulls that were said to be complete during that step."""
    released: Sequence[LegId] = ()
    """Legs whose kept blocks were freed."""
    expired: Sequence[LegId] = ()
    """The part of ``released`` that no reader came for in time."""
    block_events: Sequence[BlockEvent] = ()
    """Oldest first. Of a leap all are told at its end."""
    pulls: Sequence[Pull] = ()
    """To be answered with ``pulled`` or ``pull_failed``, when the bytes are here."""
    dismissed: Sequence[RemotePrompt] = ()
    """Kept prompts nobody will read: ``release`` them on their keepers."""
    samples: Sequence[StepSample] = ()
    """Steps made since the last time anything was told, oldest first; of a leap the first and the last."""


@dataclass(slots=True)
class _UnderWay:
    """The step that an engine is busy with."""

    step: Step
    clock: LeapClock
    ends_s: float
    late_s: float = 0.0
    """By how much it ends later than ``clock`` says."""

    @property
    def leaps(self) -> bool:
        return self.step.steps > 1


class VirtualEngine:
    """A scheduler and the step that is under way.

    Calls carry the time and come in its order: before any other call ``advance`` to that moment, or to any before ``next_event_s``.
    What is asked during a step counts from the next one on, which is planned when the step ends (``advance``), also where both are
    at the same moment; a leap ends at the end of the step of it that is under way. An idle engine plans at once: ``next_event_s`` is
    the time of the call then.
    """

    def __init__(self, config: SimulatedEngineConfig, timing: StepTime | None = None, *, leaps: bool = True) -> None:
        """``timing`` is the configured one where none is given. Without ``leaps`` every step is one event."""
        self.config = config
        self._busy_s = 0.0
        """In steps that have ended, all together."""
        self._timing: StepTime = timing if timing is not None else config.timing
        self._limit_steps = _LEAP_STEPS if leaps else 1
        self._scheduler = SimScheduler(config)
        self._under_way: _UnderWay | None = None
        self._called_s = inf
        """When an idle engine was called."""
        self._samples: list[StepSample] = []

    @property
    def next_event_s(self) -> float:
        """When ``advance`` has something to do; infinite: never, unless something is asked."""
        if self._under_way is not None:
            return self._under_way.ends_s
        expiry_s = self._scheduler.next_expiry_s
        return self._called_s if expiry_s is None else min(self._called_s, expiry_s)

    @property
    def busy(self) -> bool:
        """Whether a step is under way."""
        return self._under_way is not None

    def busy_until(self, now: float) -> float:
        """Seconds spent in steps so far, all together."""
        under_way = self._under_way
        return self._busy_s + (max(0.0, now - under_way.clock.began_s) if under_way is not None else 0.0)

    def stats(self, now: float) -> EngineStats:
        """As they are at ``now``, also within a leap."""
        stats, under_way = self._scheduler.stats, self._under_way
        if under_way is None or not under_way.leaps:
            return stats
        grown = self._scheduler.growth(under_way.step, under_way.clock.boundary_after(now))
        return msgspec.structs.replace(stats, free_blocks=stats.free_blocks - grown)

    def tokens_made(self, leg: LegId, now: float) -> int | None:
        """Tokens a request has made here until ``now``; None for one that has ended or was never added."""
        under_way = self._under_way
        return self._scheduler.tokens_made(leg, under_way.clock.steps_done_at(now) if under_way is not None and under_way.leaps else 0)

    @property
    def timing(self) -> StepTime:
        """How long its steps take now."""
        return self._timing

    def retime(self, timing: StepTime, now: float) -> None:
        """Steps take so long from now on, the one under way excepted."""
        self._interrupt(now)
        self._timing = timing

    def unpulled(self) -> Iterator[RemotePrompt]:
        """The kept prompts that waiting requests have still to pull: ``renew`` them on their keepers every third of a lease."""
        return self._scheduler.unpulled()

    # What is asked

    def add(self, request: SimRequest, now: float) -> None:
        """Queues a request; one that can never fit is told with an error."""
        self._interrupt(now)
        self._scheduler.add(request, now)

    def abort(self, leg: LegId, now: float) -> RemotePrompt | None:
        """Ends a request, in whatever state, and frees its blocks at once. Returns the kept prompt it has not read, if any."""
        self._interrupt(now)
        return self._scheduler.abort(leg)

    def release(self, leg: LegId, now: float) -> bool:
        """Ends a finished request's lease and frees its blocks at once; False where there is none."""
        self._interrupt(now)
        return self._scheduler.release(leg)

    def renew(self, leg: LegId, now: float) -> bool:
        """Starts a lease anew; False where there is none (any more)."""
        return self._scheduler.renew(leg, now)

    def pulled(self, leg: LegId, now: float) -> None:
        """A pull is complete. Unknown legs (aborted meanwhile) are ignored."""
        self._interrupt(now)
        self._scheduler.pulled(leg, now)

    def pull_failed(self, leg: LegId, now: float) -> None:
        """Nothing came: the prompt is computed here. Unknown legs are ignored."""
        self._interrupt(now)
        self._scheduler.pull_failed(leg)

    def held_up(self, seconds: float, now: float) -> None:
        """Something else has the engine for so long, behind the step under way: that ends as much later. An idle one does not mind."""
        self._interrupt(now)
        if self._under_way is not None:
            self._under_way.late_s += seconds
            self._under_way.ends_s += seconds

    def advance(self, now: float) -> list[Told]:
        """Lives until ``now``, that moment included; what was told on the way, oldest first."""
        told: list[Told] = []
        while (at_s := self.next_event_s) <= now:
            results = [] if self._under_way is None else [self._finish(self._under_way, at_s)]
            step = self._begin(at_s)
            if not step.chunks:
                results.append(self._scheduler.finish(step, at_s))
            if step.pulls or step.dismissed or not all(result.empty and not result.block_events for result in results):
                told.append(_told(at_s, results, step, self._samples))
                self._samples = []
        return told

    def _finish(self, under_way: _UnderWay, now: float) -> StepResult:
        """Ends the step under way."""
        self._under_way = None
        step, clock = under_way.step, under_way.clock
        self._busy_s += now - clock.began_s
        self._samples += clock.samples(step.steps)
        return self._scheduler.finish(step, now, clock.gaps(step.steps) if under_way.leaps else None)

    def _begin(self, now: float) -> Step:
        """Plans the next step, and starts it unless there is nothing to compute."""
        self._called_s = inf
        step = self._scheduler.schedule(now, self._limit_steps)
        if step.chunks:
            clock = LeapClock(step, self._timing, now)
            expiry_s = self._scheduler.next_expiry_s
            if step.steps > 1 and expiry_s is not None and expiry_s < clock.end_s:
                step.steps = clock.boundary_after(expiry_s)
            self._under_way = _UnderWay(step, clock, clock.ends_s(step.steps))
        return step

    def _interrupt(self, now: float) -> None:
        """Somebody asks something: a leap ends with the step of it that is under way, an idle engine wakes."""
        under_way = self._under_way
        if under_way is None:
            self._called_s = min(self._called_s, now)
        elif under_way.leaps and not under_way.late_s:  # one that is late has been cut to its step already
            self._scheduler.cut(under_way.step, under_way.clock.boundary_after(now))
            under_way.ends_s = under_way.clock.ends_s(under_way.step.steps) + under_way.late_s


def _told(at_s: float, results: Sequence[StepResult], step: Step, samples: Sequence[StepSample]) -> Told:
    """What there is to say of a step that ended, and of the one behind it."""
    return Told(
        at_s=at_s,
        emitted=[emitted for result in results for emitted in result.emitted],
        transfers=[transfer for result in results for transfer in result.transfers],
        released=[leg for result in results for leg in result.released],
        expired=[leg for result in results for leg in result.expired],
        block_events=[event for result in results for event in result.block_events],
        pulls=step.pulls,
        dismissed=step.dismissed,
        samples=samples,
    )
