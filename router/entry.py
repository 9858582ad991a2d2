"""One request with all that belongs to it in the router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.messages import LegKind
from core.ids import LegId
from router.flow import Flow
from router.queue import Rank
from router.timeline import Timeline
from router.timers import Timer

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest


@dataclass(slots=True)
class Entry:
    """Only the dispatcher changes it."""

    request: EngineCoreRequest
    flow: Flow
    timeline: Timeline
    frames: Sequence[bytes]
    """The request as the client sent it, encoded once for every leg."""
    held: EngineCoreOutput | None = None
    """A prefill output whose token does not count; what it tells of the prompt goes out with decode's first output."""
    kinds: dict[LegId, LegKind] = field(default_factory=dict)
    """Every leg it ever had."""
    begun: set[LegId] = field(default_factory=set)
    """Those that have told something."""
    kept_until_s: float | None = None
    """When the lease on its kept prompt ends; on the router's clock, which began later: on the safe side only for the router."""
    waits_since_s: float | None = None
    """Since when no worker has worked on it, however often it was tried meanwhile: its place in the queue."""
    entered_s: float | None = None
    """Since when it has been in the queue."""
    is_turn: bool = False
    """It is being tried out of the queue: it need not wait behind the others."""
    timers: list[Timer] = field(default_factory=list)

    @property
    def context_tokens(self) -> int:
        """Prompt and emitted tokens."""
        return self.timeline.prompt_tokens + len(self.flow.emitted)

    @property
    def rank(self) -> Rank:
        """Its place in the queue."""
        if self.flow.kept is not None:
            return Rank.HANDED_OFF
        return Rank.RESUMED if self.flow.emitted or self.flow.losses else Rank.NEW
