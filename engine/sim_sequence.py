"""One request inside the simulated engine: its content, its blocks, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence

from engine.sim_blocks import BlockHash
from engine.sim_content import Content, LengthContent, LengthPrompt, TokenContent
from engine.sim_request import Mark, PromptCounts, SimRequest, Timeline
from engine.sim_tokens import TokenRule

Order = tuple[int, float, str, int]
"""Where a waiting request stands; smaller goes first, and no two are equal."""


class SimSequence:
    """A request's progress. Only the scheduler and its cache change it."""

    __slots__ = (
        "_first_token_s",
        "added_s",
        "arrival_s",
        "blocks",
        "computed",
        "content",
        "counts",
        "end_length",
        "ended",
        "given",
        "known_end",
        "last_token_s",
        "length",
        "longest_gap_s",
        "marks",
        "order",
        "preemptions",
        "prompt_tokens",
        "pull_started_s",
        "remote",
        "request",
        "scheduled_s",
        "stored",
    )

    def __init__(self, request: SimRequest, rule: TokenRule, block_size_tokens: int, max_model_len: int, now: float) -> None:
        self.request = request
        self.prompt_tokens = len(request.prompt)
        self.given = request.num_given
        self.length = self.given
        """Tokens there are: given ones and those made here."""
        self.end_length = min(self.prompt_tokens + request.max_tokens, max_model_len)
        """It is never longer."""
        self.computed = 0
        """Tokens whose KV is in ``blocks``."""
        self.blocks: list[int] = []
        self.stored = 0
        """Blocks that can be found by others, or never will."""
        self.remote = request.remote
        """None once pulled, refused or not needed."""
        self.pull_started_s = 0.0
        self.counts: PromptCounts | None = None
        self.ended = False
        self.order: Order = (0, 0.0, "", 0)
        self.added_s = now
        self.arrival_s = now if request.arrival_s is None else request.arrival_s
        self.scheduled_s: float | None = None
        self._first_token_s = 0.0
        self.last_token_s = 0.0
        self.longest_gap_s = 0.0
        self.preemptions = 0
        self.marks: list[tuple[Mark, float]] = [(Mark.QUEUED, now)]
        self.content: Content
        if isinstance(request.prompt, LengthPrompt):
            self.content = LengthContent(request.prompt, block_size_tokens)
        else:
            tokens, least = [*request.prompt, *request.emitted], self.prompt_tokens + request.min_tokens
            stops = request.stop_token_ids
            self.content = TokenContent(rule, tokens, request.salt, stops, request.eos_token_id, least, request.adapter)
        self.known_end = self.content.known_end

    @property
    def tokens_made(self) -> int:
        """Tokens made here so far."""
        return self.length - self.given

    @property
    def timeline(self) -> Timeline:
        """How it has fared; only once it has made a token."""
        return Timeline(
            added_s=self.added_s,
            scheduled_s=self.added_s if self.scheduled_s is None else self.scheduled_s,
            first_token_s=self._first_token_s,
            last_token_s=self.last_token_s,
            longest_gap_s=self.longest_gap_s,
            tokens=self.tokens_made,
            preemptions=self.preemptions,
        )

    def count_token(self, now: float) -> None:
        """One more token was made."""
        self.length += 1
        if self.length == self.given + 1:
            self._first_token_s = now
        else:
            self.longest_gap_s = max(self.longest_gap_s, now - self.last_token_s)
        self.last_token_s = now

    def note_scheduled(self, now: float) -> None:
        self.marks.append((Mark.SCHEDULED, now))
        if self.scheduled_s is None:
            self.scheduled_s = now

    def note_preempted(self, now: float) -> None:
        self.marks.append((Mark.PREEMPTED, now))
        self.preemptions += 1

    def hashes(self, full_blocks: int, block_size_tokens: int) -> Sequence[BlockHash]:
        """The hashes of the first ``full_blocks`` blocks, or of as many as have one."""
        return self.content.hashes(full_blocks, block_size_tokens)

    def take_marks(self) -> tuple[tuple[Mark, float], ...]:
        marks, self.marks = tuple(self.marks), []
        return marks
