"""Step times read from a table of measured ones."""

from __future__ import annotations

from functools import cached_property

import msgspec

from core.errors import ConfigError
from core.step_model import StepWork
from engine.performance.grid import Line, Surface


class PrefillRow(msgspec.Struct, frozen=True):
    """One measured step that computes a whole prompt."""

    tokens: int
    seconds: float


class DecodeRow(msgspec.Struct, frozen=True):
    """One measured decode step. Every measured batch needs at least one context."""

    batch: int
    context_tokens: int
    """Per request."""
    seconds: float


class TableTime(msgspec.Struct, frozen=True, dict=True, tag="table", forbid_unknown_fields=True):
    """Measured steps, linear in between, the last slope beyond, the first value below. A mixed step pays the smaller first value once."""

    prefill: tuple[PrefillRow, ...]
    decode: tuple[DecodeRow, ...]
    prefill_square_s: float = 0.0
    """What of a row's seconds is attention, per token squared. A step of several prompts, or of a chunk deep in a long one, has
    other squares than one whole prompt of as many tokens, and pays for its own. 0: only the tokens count."""

    def __post_init__(self) -> None:
        if not self.prefill or not self.decode:
            raise ConfigError("needs at least one prefill and one decode row", "timing table")
        if self.prefill_square_s < 0:
            raise ConfigError("must not be below 0", "prefill_square_s")

    def step_s(self, work: StepWork) -> float:
        """Seconds of one step; some microseconds of ours, as sorted grids are made once (``dict=True`` keeps them)."""
        seconds = 0.0
        if work.prefill_tokens:
            seconds = self._linear.at(work.prefill_tokens) + self.prefill_square_s * work.prefill_squares
        if work.batch:
            seconds += self._decode.at(work.batch, work.context_tokens / work.batch)
            if work.prefill_tokens:
                seconds -= self._shared_s
        return seconds

    @cached_property
    def _linear(self) -> Line:
        """Seconds by tokens, less attention."""
        return Line((row.tokens, row.seconds - self.prefill_square_s * row.tokens**2) for row in self.prefill)

    @cached_property
    def _decode(self) -> Surface:
        return Surface((row.batch, row.context_tokens, row.seconds) for row in self.decode)

    @cached_property
    def _shared_s(self) -> float:
        """Mostly reading the weights: what both kinds of step pay and a mixed one pays once."""
        return min(self._linear.at(0), self._decode.at(0, 0))
