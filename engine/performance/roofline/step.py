"""What one engine step computes, in as much detail as operators need."""

from __future__ import annotations

import msgspec

from core.step_model import StepWork


class Chunk(msgspec.Struct, frozen=True):
    """``count`` prompts, or chunks of prompts, that are alike: ``new_tokens`` each behind ``cached_tokens`` that are there already."""

    new_tokens: float
    cached_tokens: float = 0.0
    count: float = 1.0

    def pairs(self, window: int | None, is_causal: bool) -> float:
        """How many (token, token attended to) there are in each."""
        new, cached = self.new_tokens, self.cached_tokens
        if not is_causal:
            return new * self.read(window)
        if window is None or cached + new <= window:
            return new * cached + new * (new + 1.0) / 2.0
        filling = max(0.0, window - cached)  # tokens that still see everything before them
        return filling * cached + filling * (filling + 1.0) / 2.0 + (new - filling) * window

    def read(self, window: int | None) -> float:
        """Tokens whose keys are read, in each."""
        seen = self.cached_tokens if window is None else min(self.cached_tokens, window)
        return seen + self.new_tokens


class Step(msgspec.Struct, frozen=True):
    """Prompt chunks, and ``batch`` requests that make one token each, attending to ``context_tokens`` in all, their own included."""

    chunks: tuple[Chunk, ...] = ()
    batch: float = 0.0
    context_tokens: float = 0.0

    @property
    def tokens(self) -> float:
        """Computed in all."""
        return self.batch + sum(chunk.new_tokens * chunk.count for chunk in self.chunks)

    @property
    def sequences(self) -> float:
        """Of which the last token's logits are needed. A chunk that does not end its prompt needs none; it is one row among many."""
        return self.batch + sum(chunk.count for chunk in self.chunks)

    def decoded_read(self, window: int | None) -> float:
        """Tokens that the ``batch`` requests attend to in all. A window sees their mean context."""
        return self.context_tokens if window is None else min(self.context_tokens, self.batch * window)

    @classmethod
    def of(cls, work: StepWork) -> Step:
        """The step with those sums: one chunk behind a cached prefix, or else as many whole prompts of one length."""
        tokens, squares = float(work.prefill_tokens), float(work.prefill_squares)
        chunks: tuple[Chunk, ...] = ()
        if tokens:
            cached = (squares / tokens - tokens) / 2.0
            if cached >= 0.0:
                chunks = (Chunk(tokens, cached),)
            else:
                length = max(squares / tokens, 1.0)
                chunks = (Chunk(length, 0.0, tokens / length),)
        return cls(chunks, float(work.batch), float(work.context_tokens))
