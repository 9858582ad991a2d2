"""Traces as data: which trace something belongs to, as W3C Trace Context has it, and the spans that are told of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

Bits = Callable[[int], int]
"""So many random bits; ids are made of them."""
Export = Callable[[Sequence["Span"]], None]
"""Takes ended spans. Never waits, never raises."""
Value = str | int | float | bool

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}")
_MOST_MEMBERS = 32
_MOST_STATE = 512
"""Characters of ``tracestate`` that go on with every leg; the standard asks for so many."""


class TraceContext(msgspec.Struct, frozen=True):
    """One span's place: what is made for it is a child of ``span_id``."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 of them."""
    sampled: bool = True
    state: str = ""
    """``tracestate`` as it came: the business of those who wrote it, and passed on."""

    @property
    def headers(self) -> dict[str, str]:
        """For whoever is asked to go on with it."""
        parent = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"}
        return {**parent, "tracestate": self.state} if self.state else parent

    def child(self, bits: Bits) -> TraceContext:
        """The place of a new span below this one."""
        return msgspec.structs.replace(self, span_id=_some_id(bits, 64))


def incoming(traceparents: Sequence[str], tracestates: Sequence[str] = ()) -> TraceContext | None:
    """What a caller's headers say; None where there is no ``traceparent``, or none that can be read: the standard has both alike.

    A version that came later is read by what it has in common with the first. A ``tracestate`` that cannot be read, or is too long
    to be carried, is left out, the trace goes on.
    """
    found = _TRACEPARENT.fullmatch(traceparents[0].strip(" \t")) if len(traceparents) == 1 else None
    if found is None or (found[1] == "00" and found[5]):
        return None
    return TraceContext(found[2], found[3], bool(int(found[4], 16) & 1), _readable_state(tracestates))


def new_trace(bits: Bits, sample: float) -> TraceContext:
    """A trace of nobody's before, with an empty place at its top. ``sample`` is the share of them that is told of.

    By the id, as OpenTelemetry does: whoever else samples by the same share picks the same traces.
    """
    trace_id = _some_id(bits, 128)
    return TraceContext(trace_id, "", int(trace_id[16:], 16) < sample * 2**64)


class SpanKind(StrEnum):
    """Where the other side of it is."""

    INTERNAL = "internal"
    CLIENT = "client"
    """It waits for one in another process."""
    SERVER = "server"
    """Another process waits for it."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took its time. Unix nanoseconds, by the clock of the router that has the request."""

    name: str
    context: TraceContext
    parent_id: str
    """Empty: it is the first of its trace."""
    begin_ns: int
    end_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    kind: SpanKind = SpanKind.INTERNAL
    error: str | None = None
    """Why it failed; None: it did not."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """One moment by two clocks. Durations are those of the monotonic one, whatever is done to the other meanwhile."""

    unix_ns: int
    clock_s: float
    slowdown: float = 1.0
    """Seconds of the first that pass in one of the second; see ``core.pace``."""

    def at_ns(self, clock_s: float) -> int:
        """When that was, in Unix nanoseconds."""
        return self.unix_ns + round((clock_s - self.clock_s) * self.slowdown * 1e9)


def _some_id(bits: Bits, size: int) -> str:
    return f"{bits(size) or 1:0{size // 4}x}"  # all zero is none


def _readable_state(given: Sequence[str]) -> str:
    members = [member.strip(" \t") for line in given for member in line.split(",")]
    members = [member for member in members if member]
    state = ",".join(members)
    names = [member.partition("=")[0] for member in members]
    sound = len(members) <= _MOST_MEMBERS and len(state) <= _MOST_STATE and len(set(names)) == len(names)
    return state if sound and all(map(_MEMBER.fullmatch, members)) else ""
