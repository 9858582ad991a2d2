"""What routers and workers say to each other: msgpack structs, one per sentence, told apart by their tag.

On the wire a message is one multipart: the struct first, then, where the sentence carries an engine request or engine
outputs, the frames of those (``engine.vllm_codec``). Nothing here is ever pickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from core.handle import KVHandle
from core.ids import Epoch, LegId, WorkerId
from core.trace import TraceContext
from core.worker import WorkerLoad
from engine.base import Transfer


class LegKind(StrEnum):
    """Which part of a request a worker is asked to do."""

    PREFILL = "prefill"
    """Compute the prompt, sample one token, keep the KV for a decode worker."""
    DECODE = "decode"
    """Pull the KV a handle names (or compute what cannot be had), then generate to the end."""
    WHOLE = "whole"
    """Both, here."""


class LegTrace(msgspec.Struct, frozen=True):
    """Goes with the legs of requests whose trace is sampled."""

    context: TraceContext
    """What the worker tells is below this."""
    sent_ns: int
    """Unix nanoseconds, by the router's clock."""


class AddLeg(msgspec.Struct, frozen=True, tag="add"):
    """Router: do this leg. Followed by the frames of the request, always as the client sent it."""

    leg: LegId
    epoch: Epoch
    kind: LegKind
    tokens: int = 0
    """Prompt and emitted tokens together: what a worker needs to know to refuse before it reads the request."""
    emitted: list[int] = []
    """Output tokens the client has already; generation goes on behind them, as after a preemption."""
    first_token_counts: bool = True
    """PREFILL: the sampled token goes to the client, so it is sampled as asked; otherwise it is thrown away."""
    handle: KVHandle | None = None
    """DECODE: where the prompt's KV is; None computes it here."""
    trace: LegTrace | None = None


class AbortLegs(msgspec.Struct, frozen=True, tag="abort"):
    """Router: stop these legs and free what they hold, kept KV included."""

    legs: list[LegId]


class Call(msgspec.Struct, frozen=True, tag="call"):
    """Router: call an engine utility; answered by one ``Answer``."""

    number: int
    method: str
    args: list[Any] = []


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Router: I am here. Sent on connecting and at every beat; its identity is the ZMQ routing id."""

    queued_tokens: int = 0
    """Prompt tokens that wait with it, for nobody in particular. Workers tell the other routers."""


class WantKV(msgspec.Struct, frozen=True, tag="want_kv"):
    """Router: tell me all that your engine has cached, and from then on what changes. Asked again whenever something was missed."""

    number: int
    """Told back with the answer; grows with every time it is asked."""


class StepOutputs(msgspec.Struct, frozen=True, tag="outputs"):
    """Worker: one engine step's outputs for this router. Followed by the frames of ``EngineCoreOutputs``."""

    epoch: Epoch
    load: WorkerLoad
    handles: dict[LegId, KVHandle] = {}
    """For prefill legs that finished in this step and whose KV is kept."""
    transfers: Sequence[Transfer] = ()
    """KV pulls of this router's legs that finished since its last outputs."""
    scheduled: dict[LegId, float] = {}
    """Seconds a leg waited in the engine's queue, told once, with its first output."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Worker: I cannot take this leg now. Nothing of it was kept."""

    leg: LegId
    epoch: Epoch
    reason: str
    busy: bool = False
    """There is no room now, and will be: offer it again later. Otherwise this life of the worker will not take it."""
    unable: bool = False
    """What the request wants cannot be had here, whoever asks and whenever; another worker may have it. Where none has, its client reads
    ``reason``."""


class MoveLegs(msgspec.Struct, frozen=True, tag="move"):
    """Worker: I have to go; continue these legs elsewhere. Each runs on here until it is aborted, or ends by itself."""

    epoch: Epoch
    legs: list[LegId]
    reason: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Worker: these legs ended by an engine failure; no more of them will come."""

    epoch: Epoch
    legs: list[LegId]
    reason: str


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """Worker: the result of a ``Call``."""

    number: int
    value: Any = None
    error: str | None = None


class Pulse(msgspec.Struct, frozen=True, tag="pulse"):
    """Worker: I am alive and this is my load."""

    epoch: Epoch
    load: WorkerLoad
    kv_sequence: int = 0
    """Of the newest ``KVChanges``: who has not seen it has missed some."""


class KVChanges(msgspec.Struct, frozen=True, tag="kv"):
    """Worker: what changed in the engine's cache. To all routers that want it, the same to each; keys by ``core.block_keys.pack``."""

    epoch: Epoch
    sequence: int
    """1 for the first of the epoch, one more with each; 0 is the empty cache before it."""
    cleared: bool = False
    """Forget all that was there, before the rest of this message."""
    stored: bytes = b""
    removed: bytes = b""
    """None of ``stored``. May name what never was there."""


class KVSnapshot(msgspec.Struct, frozen=True, tag="kv_all"):
    """Worker: one part of all that the engine has cached. ``KVChanges`` go on meanwhile."""

    epoch: Epoch
    number: int
    """Of the ``WantKV`` it answers."""
    sequence: int
    """Those changes, and all before, are in it. Perhaps some of the next: applying that one to it is right all the same."""
    part: int
    """Counted from 0."""
    last: bool
    keys: bytes = b""


FromRouter = AddLeg | AbortLegs | Call | Hello | WantKV
FromWorker = StepOutputs | Refused | MoveLegs | Failed | Answer | Pulse | KVChanges | KVSnapshot

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_from_router: msgspec.msgpack.Decoder[FromRouter] = msgspec.msgpack.Decoder(FromRouter)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode(message: FromRouter | FromWorker) -> bytes:
    """The struct's frame."""
    return _encoder.encode(message)


def decode_from_router(frame: bytes) -> FromRouter:
    """Raises msgspec.DecodeError (msgspec.ValidationError is one) on anything else."""
    return _decode(_from_router, frame)


def decode_from_worker(frame: bytes) -> FromWorker:
    """Raises msgspec.DecodeError (msgspec.ValidationError is one) on anything else."""
    return _decode(_from_worker, frame)


def _decode(decoder: msgspec.msgpack.Decoder[T], frame: bytes) -> T:
    try:
        return decoder.decode(frame)
    except UnicodeDecodeError as error:  # msgspec lets this one through
        raise msgspec.DecodeError(str(error)) from error


def worker_mismatch(epoch: Epoch, mine: Epoch, worker: WorkerId) -> str | None:
    """Why a worker must not take something meant for another life of it, or None."""
    return None if epoch == mine else f"{worker} is in epoch {mine}, not {epoch}"
