"""Where one traced request was, and since when: a list of stretches without a gap. Pure; told the time, on the router's clock.

There is one only for requests that are sampled, so that the others pay for nothing but looking whether there is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.messages import LegKind
from core.ids import LegId, WorkerId
from core.metrics.words import Part
from core.trace import TraceContext
from engine.base import Transfer
from router.http_trace import HttpTrace

_MOST_STRETCHES = 256
"""A request that is refused all the time would have as many as it likes; the last one lasts to the end."""


@dataclass(slots=True, eq=False)
class LegTrack:
    """One leg as the router sees it."""

    context: TraceContext
    kind: LegKind
    worker: WorkerId
    attempt: int
    emitted_tokens: int = 0
    """What the client had when it was sent."""
    queue_s: float = 0.0
    """In the engine's queue, as the worker told."""
    transfer_s: float = 0.0
    transfer_bytes: int = 0
    trouble: str = ""
    """How it came to nothing, in a word; empty: it did not, as far as is known."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Stretch:
    """From ``begin_s`` to the beginning of the next."""

    begin_s: float
    part: Part
    leg: LegTrack | None = None


@dataclass(slots=True)
class Track:
    """``http`` is what it is a part of."""

    http: HttpTrace
    context: TraceContext
    """The request's own span."""
    began_s: float
    stretches: list[Stretch] = field(default_factory=list)
    legs: dict[LegId, LegTrack] = field(default_factory=dict)

    @classmethod
    def of(cls, http: HttpTrace, now_s: float) -> Track:
        """Of a request that has just come."""
        return cls(http, http.context.child(http.bits), now_s, [Stretch(now_s, Part.ROUTE)])

    def asks(self, now_s: float, kept: bool) -> None:
        """A plan is looked for. From the queue that is nothing new; ``kept``: a computed prompt waits meanwhile."""
        leg = self.stretches[-1].leg
        if leg is not None:
            leg.trouble = leg.trouble or "moved"  # asked to, or what it was to read is lost
            self._enter(now_s, Part.HANDOFF_WAIT if kept else Part.ROUTE)

    def waits(self, now_s: float, kept: bool) -> None:
        """Nobody has room."""
        part = Part.HANDOFF_WAIT if kept else Part.QUEUE
        if self.stretches[-1].part is not part:
            self._enter(now_s, part)

    def sent(self, leg: LegId, kind: LegKind, worker: WorkerId, attempt: int, emitted_tokens: int, now_s: float) -> TraceContext:
        """A leg goes to its worker; returns the place for what the worker tells of it."""
        track = self.legs[leg] = LegTrack(self.context.child(self.http.bits), kind, worker, attempt, emitted_tokens)
        self._enter(now_s, Part.DECODE_WAIT if kind is LegKind.DECODE else Part.PREFILL, track)
        return track.context

    def begun(self, leg: LegId, queue_s: float, now_s: float) -> None:
        """The first that is heard of a leg: its first token, which is all there is of a prefill leg."""
        track = self.legs.get(leg)
        if track is None or track is not self.stretches[-1].leg:
            return  # it has ended here meanwhile
        track.queue_s = queue_s
        if track.kind is not LegKind.PREFILL:
            self._enter(now_s, Part.DECODE, track)

    def moved(self, transfer: Transfer) -> None:
        """A pull of KV for one of its legs has ended; ranks of one engine pull side by side."""
        if (track := self.legs.get(transfer.leg)) is not None:
            track.transfer_s = max(track.transfer_s, transfer.transfer_s)
            track.transfer_bytes += transfer.transfer_bytes

    def trouble(self, leg: LegId, how: str, why: str) -> None:
        """A leg comes to nothing."""
        if (track := self.legs.get(leg)) is not None:
            track.trouble, track.why = how, why

    def lost(self, worker: WorkerId, why: str) -> None:
        """A worker is; the last leg may be there, those before it have ended."""
        leg = self.stretches[-1].leg
        if leg is not None and leg.worker == worker:
            leg.trouble, leg.why = "lost", why

    def _enter(self, now_s: float, part: Part, leg: LegTrack | None = None) -> None:
        if len(self.stretches) < _MOST_STRETCHES:
            self.stretches.append(Stretch(now_s, part, leg))
