"""One request inside the simulated engine: what was asked, how far it is, and what it says."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import msgspec

from core.ids import LegId
from engine.sim_blocks import BlockHash, hash_block
from engine.sim_tokens import TokenRule, TokenStream


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
    prompt: list[int]
    max_tokens: int
    """Of the whole output, ``emitted`` included; so is ``min_tokens``."""
    min_tokens: int = 0
    emitted: list[int] = []
    """Output made elsewhere: computed like the prompt, and gone on behind."""
    stop_token_ids: frozenset[int] = frozenset()
    eos_token_id: int | None = None
    """Ends the output where it is sampled; None: nothing does, and the rule's own is not sampled."""
    salt: str | None = None
    keep: bool = False
    """Keep the blocks under a lease when the output ended."""
    remote: RemotePrompt | None = None
    """Pull from there before computing."""

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


class Emitted(msgspec.Struct, frozen=True, gc=False):
    """One sampled token, or the end of a request that failed (``token`` None)."""

    leg: LegId
    token: int | None
    ended: Literal["", "stop", "length", "error"] = ""
    stop_token_id: int | None = None
    counts: PromptCounts | None = None
    """With the first token only."""
    kept: KeptPrompt | None = None
    marks: tuple[tuple[Mark, float], ...] = ()


class SimSequence:
    """A request's tokens, blocks and progress. Only the scheduler changes it."""

    def __init__(self, request: SimRequest, rule: TokenRule, now: float) -> None:
        self.request = request
        self.tokens = [*request.prompt, *request.emitted]
        self.computed = 0
        """Tokens whose KV is in ``blocks``."""
        self.blocks: list[int] = []
        self.hashes: list[BlockHash] = []
        self.stored = 0
        """Blocks that can be found by others."""
        self.remote = request.remote
        """None once pulled, refused or not needed."""
        self.pull_started_s = 0.0
        self.counts: PromptCounts | None = None
        self.ended = False
        self.marks: list[tuple[Mark, float]] = [(Mark.QUEUED, now)]
        self._stream = TokenStream(rule, self.tokens)
        stops = request.stop_token_ids | ({request.eos_token_id} if request.eos_token_id is not None else frozenset())
        never = {rule.eos_token_id} if request.eos_token_id is None and rule.eos_token_id is not None else frozenset()
        self._barred = frozenset(never)
        self._barred_early = frozenset(never | stops)

    @property
    def num_outputs(self) -> int:
        """Tokens of the output so far, wherever they were made."""
        return len(self.tokens) - len(self.request.prompt)

    def sample(self) -> int:
        """Draws the next token and appends it."""
        token = self._stream.next(self._barred_early if self.num_outputs < self.request.min_tokens else self._barred)
        self._stream.extend((token,))
        self.tokens.append(token)
        return token

    def hash_blocks(self, full_blocks: int, block_size_tokens: int) -> list[BlockHash]:
        """The hashes of the first ``full_blocks`` blocks; each is computed once."""
        for index in range(len(self.hashes), full_blocks):
            block = self.tokens[index * block_size_tokens : (index + 1) * block_size_tokens]
            self.hashes.append(hash_block(self.hashes[-1] if self.hashes else None, block, self.request.salt))
        return self.hashes[:full_blocks]

    def take_marks(self) -> tuple[tuple[Mark, float], ...]:
        marks, self.marks = tuple(self.marks), []
        return marks
