"""Whether a worker has room for one more leg: the interface, and what it is decided by. Who decides is in ``*_workers/admission.py``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from cluster.messages import AddLeg, LegKind
from core.worker import EngineFacts, WorkerLoad

_STEPS_AHEAD = 4
"""Enough that the engine never waits for a router, few enough that a prompt taken is one begun soon."""


def max_prefill_tokens(configured: int | None, facts: EngineFacts) -> int:
    """Prompt tokens a worker takes on before the first of them is done. What routers believe of it, and what it does."""
    return configured or _STEPS_AHEAD * facts.max_num_batched_tokens


@dataclass(frozen=True, slots=True)
class Room:
    """A worker at one moment. Legs are those taken and not ended."""

    facts: EngineFacts
    load: WorkerLoad
    """The engine's own numbers as of its last step; leased blocks are among the used ones."""
    legs: int = 0
    growing_legs: int = 0
    """Those that go on behind their first token, and so need ever more blocks."""
    prompt_tokens: int = 0
    """Prompt tokens of legs that compute their prompt here and have not told a token yet."""
    unseen_blocks: int = 0
    """Blocks that legs without a first token need for their prompts. The engine's numbers may not show them yet."""


class Admission(ABC):
    """One reason not to take a leg. Pure: asked before the request is read, with nothing but its kind and length known."""

    @abstractmethod
    def refusal(self, add: AddLeg, room: Room) -> str | None:
        """Why there is no room for this leg now, in words with the numbers; None: there is. Changes nothing."""


def blocks(tokens: int, facts: EngineFacts) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // facts.block_size_tokens)


def computes_prompt(add: AddLeg) -> bool:
    """Whether the worker computes the leg's prompt itself, as against pulling its KV."""
    return add.kind is not LegKind.DECODE or add.handle is None


def kv_refusal(add: AddLeg, room: Room, headroom_tokens: int) -> str | None:
    """Why the leg's KV does not fit beside what is there and what that still grows by.

    A worker with nothing to do takes any leg: if that one does not fit, none ever will.
    """
    if not room.legs and not room.load.leased_blocks:
        return None
    needed = blocks(add.tokens, room.facts)
    kept = room.growing_legs * blocks(headroom_tokens, room.facts)
    if needed + room.unseen_blocks + kept <= room.load.free_blocks:
        return None
    return (
        f"{needed} KV blocks are needed; {room.load.free_blocks} of {room.load.num_blocks} are free, of which {room.unseen_blocks} go to "
        f"legs that have just come and {kept} are for {room.growing_legs} legs to grow into"
    )
