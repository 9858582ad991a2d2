"""What is asked of the simulated engine, and what it answers."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import msgspec

from core.ids import LegId
from engine.sim_content import LengthPrompt


class RemotePrompt(msgspec.Struct, frozen=True):
    """Where a prompt's KV is kept."""

    engine_id: str
    """One life of one engine."""
    leg: LegId
    host: str
    port: int
    tokens: int
    """Tokens, from the prompt's start, whose KV is there."""


class SimRequest(msgspec.Struct, frozen=True):
    """What is asked of the engine. ``prompt`` is not empty and shorter than the longest sequence."""

    leg: LegId
    prompt: list[int] | LengthPrompt
    """Of a ``LengthPrompt`` the output is exactly ``max_tokens`` long, whatever is said about stopping below."""
    max_tokens: int
    """Of the whole output, ``emitted`` included; so is ``min_tokens``."""
    min_tokens: int = 0
    emitted: list[int] = []
    """Output made elsewhere: computed like the prompt, and gone on behind."""
    stop_token_ids: frozenset[int] = frozenset()
    eos_token_id: int | None = None
    """Ends the output where it is sampled; None: nothing does, and the rule's own is not sampled."""
    salt: str | None = None
    adapter: str | None = None
    """The LoRA adapter that it is computed with. Blocks of a ``LengthPrompt`` are called otherwise with another one already."""
    keep: bool = False
    """Keep the blocks under a lease when the output ended."""
    remote: RemotePrompt | None = None
    """Pull from there before computing."""
    priority: int = 0
    """Smaller goes first, where the engine's policy minds it."""
    arrival_s: float | None = None
    """When it came, for the order within a priority, on any one clock of all requests; None: when it was added."""

    @property
    def num_given(self) -> int:
        """Tokens there are before the first is sampled here."""
        return len(self.prompt) + len(self.emitted)


class Mark(IntEnum):
    """What befell a request; the numbers are those of vLLM's ``EngineCoreEventType``."""

    QUEUED = 1
    SCHEDULED = 2
    PREEMPTED = 3


class PromptCounts(msgspec.Struct, frozen=True):
    """Where the KV of a request's given tokens came from, the prompt's and the emitted ones together."""

    prompt: int
    local: int
    """Found in this engine's own cache."""
    external: int
    """Pulled from another engine."""


class KeptPrompt(msgspec.Struct, frozen=True):
    """The blocks a finished request leaves under a lease."""

    blocks: list[int]
    tokens: int


class Timeline(msgspec.Struct, frozen=True, gc=False):
    """How one request fared on one engine."""

    added_s: float
    scheduled_s: float
    """When it was first computed for."""
    first_token_s: float
    last_token_s: float
    longest_gap_s: float
    """Between two of its tokens; 0 with one token."""
    tokens: int
    """Made here."""
    preemptions: int


class Emitted(msgspec.Struct, frozen=True, gc=False):
    """One sampled token, or the end of a request that failed (``token`` None).

    Of a request whose length is known only the first token and the last are told.
    """

    leg: LegId
    token: int | None
    ended: Literal["", "stop", "length", "error"] = ""
    stop_token_id: int | None = None
    counts: PromptCounts | None = None
    """With the first token only."""
    kept: KeptPrompt | None = None
    marks: tuple[tuple[Mark, float], ...] = ()
    timeline: Timeline | None = None
    """With the last token only."""
