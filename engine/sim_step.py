"""One step of the simulated engine: what it computes, what it starts, what came of it."""

from __future__ import annotations

import msgspec

from core.ids import LegId
from core.step_model import StepWork
from engine.base import Transfer
from engine.sim_blocks import BlockEvent
from engine.sim_request import Emitted, RemotePrompt
from engine.sim_sequence import SimSequence


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """``tokens`` tokens of one sequence from ``start`` on."""

    sequence: SimSequence
    start: int
    tokens: int

    @property
    def end(self) -> int:
        return self.start + self.tokens


class Pull(msgspec.Struct, frozen=True):
    """A KV pull to start now; answer with ``pulled`` or ``pull_failed``."""

    leg: LegId
    remote: RemotePrompt
    transfer_bytes: int


class Step(msgspec.Struct):
    """The engine is busy with ``chunks`` for the time ``work`` takes; the rest happens at once and beside it.

    With more than one of ``steps`` it is a leap: so many steps of the same sequences, each a token longer every time.
    """

    chunks: list[Chunk] = []
    """Of the first step, where there are several."""
    pulls: list[Pull] = []
    dismissed: list[RemotePrompt] = []
    """Kept prompts nobody will read: their keepers may free them."""
    steps: int = 1

    @property
    def work(self) -> StepWork:
        """What the first step computes."""
        prefill_tokens = prefill_squares = batch = context_tokens = 0
        for chunk in self.chunks:
            start, tokens = chunk.start, chunk.tokens
            if tokens == 1 and start:
                batch += 1
                context_tokens += start + 1
            else:
                prefill_tokens += tokens
                prefill_squares += (start + tokens) ** 2 - start**2
        return StepWork(prefill_tokens, prefill_squares, batch, context_tokens)


class StepResult(msgspec.Struct, frozen=True):
    """Everything to tell since the last result."""

    emitted: list[Emitted]
    transfers: list[Transfer]
    released: list[LegId]
    expired: list[LegId]
    block_events: list[BlockEvent]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to tell a client; block events have readers of their own."""
        return not (self.emitted or self.transfers or self.released)
