"""The values that labels have: one enumeration per label that says how something went."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended that a router had taken in."""

    FINISHED = "finished"
    STOPPED = "stopped"
    """By a stop string: as good as finished."""
    CANCELLED = "cancelled"
    """Its client left."""
    REFUSED = "refused"
    """See ``baton_refusals_total`` for why."""
    LOST = "lost"
    """Workers ended under it, and it could not be carried on."""
    ENGINE = "engine"
    """The engine said it cannot be done."""
    TIMED_OUT = "timed_out"


class PlanKind(StrEnum):
    """Who served a request, in its last attempt."""

    DISAGGREGATED = "disaggregated"
    LOCAL = "local"
    """One worker did all."""
    NONE = "none"
    """It was never given to anybody."""


class Why(StrEnum):
    """Why a request was refused. In words, for its client, every refusal says more."""

    QUEUE_FULL = "queue_full"
    LONG_WAIT = "long_wait"
    """It would have waited too long, or others do."""
    TTFT = "ttft"
    """The promised time to the first token cannot be kept; likewise the next two."""
    TPOT = "tpot"
    DEADLINE = "deadline"
    TOO_LONG = "too_long"
    """Its prompt alone takes longer than its first token is promised within, also on an idle worker."""
    DISPLACED = "displaced"
    """A better one was taken in its place."""
    WAITED = "waited"
    """It was let in, and nobody had room in time."""
    NO_WORKER = "no_worker"
    UNAUTHORIZED = "unauthorized"
    INVALID = "invalid"
    TOO_LARGE = "too_large"
    SLOW_BODY = "slow_body"
    OTHER = "other"


class Kept(StrEnum):
    """Whether a request got what it was promised."""

    MET = "met"
    MISSED_TTFT = "missed_ttft"
    MISSED_TPOT = "missed_tpot"
    MISSED_DEADLINE = "missed_deadline"
    REFUSED = "refused"
    FAILED = "failed"


class Part(StrEnum):
    """Parts of a request's time, which follow each other without a gap."""

    ROUTE = "route"
    """In the router, but for its queue."""
    QUEUE = "queue"
    """The router's."""
    ENGINE_QUEUE = "engine_queue"
    """Of the worker that computes the prompt."""
    PREFILL = "prefill"
    HANDOFF_WAIT = "handoff_wait"
    """The prompt is computed, and the decode worker that was to take it over has refused, or was lost."""
    TRANSFER = "transfer"
    DECODE_WAIT = "decode_wait"
    """On the decode worker, until its first token, less the transfer."""
    DECODE = "decode"


class Handoff(StrEnum):
    """What became of a prompt's KV at the decode worker."""

    TRANSFERRED = "transferred"
    RECOMPUTED = "recomputed"
    """Silently: the pull failed, or was never tried."""


class TokenSource(StrEnum):
    """Where a decode worker had the KV of a handed-over prompt from."""

    TRANSFERRED = "transferred"
    CACHED = "cached"
    RECOMPUTED = "recomputed"


class Decided(StrEnum):
    """What came of looking for workers."""

    PLANNED = "planned"
    HANDED_OVER = "handed_over"
    """Who decodes, looked at anew when the prompt was computed."""
    NO_ROOM = "no_room"
    REFUSED = "refused"


class TokenKind(StrEnum):
    PROMPT = "prompt"
    OUTPUT = "output"


class StepKind(StrEnum):
    """What an engine step computed."""

    PROMPT = "prompt"
    """Some of a prompt, and perhaps decodes beside."""
    DECODE = "decode"
    """One token of each running request, and nothing else."""


class LegRefusal(StrEnum):
    """Why a worker did not take a leg."""

    NO_ROOM = "no_room"
    GOING = "going"
    """It drains, or the leg is for another life of it."""
    ADAPTER = "adapter"
    """Other requests' adapters have all slots, or its own cannot be loaded."""


class AdapterFate(StrEnum):
    """What became of loading a LoRA adapter."""

    LOADED = "loaded"
    FAILED = "failed"


class End(StrEnum):
    """Why a worker is gone."""

    DRAINED = "drained"
    NEVER_READY = "never_ready"
    """It was wanted no more before it was ready."""
    DIED = "died"
    SILENT = "silent"
    START_TIMEOUT = "start_timeout"
    DRAIN_TIMEOUT = "drain_timeout"


class SpanFate(StrEnum):
    """What becomes of the spans of a trace."""

    EXPORTED = "exported"
    DROPPED = "dropped"
    """There were too many at once."""
    FAILED = "failed"
    """The collector did not take them."""


class ScalingInput(StrEnum):
    """What the autoscaler is told of clients and of routers."""

    ARRIVALS = "arrivals_per_s"
    """Requests offered, refused ones included."""
    NEWEST = "newest_per_s"
    """The same, of the last seconds only."""
    PROMPT_TOKENS = "prompt_tokens"
    """Of a mean request."""
    OUTPUT_TOKENS = "output_tokens"
    HIT_RATE = "hit_rate"
    WAITING_TOKENS = "waiting_tokens"
    WAITED = "waited_s"
    """How long the one has waited that waits longest."""
    COMPUTING = "computing"
    """Requests without a first token, and those with one, that routers have."""
    DECODING = "decoding"


class ScalingAction(StrEnum):
    """What a plan does with a worker."""

    RELABEL = "relabel"
    WAKE = "wake"
    ADD = "add"
    DRAIN = "drain"
    SLEEP = "sleep"
    """Drained, and kept loaded."""


def values(words: type[StrEnum]) -> str:
    """All of them, for a table."""
    return ", ".join(f"`{word}`" for word in words)
