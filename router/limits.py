"""The bounds a router works within, from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.admission import max_prefill_tokens
from core.config import BatonConfig
from core.worker import Role, WorkerCard
from router.queue import QueueLimits


class Bounds(NamedTuple):
    """What one worker takes on; see ``PoolConfig``."""

    max_prefill_tokens: int
    headroom_tokens: int


@dataclass(frozen=True, slots=True)
class Limits:
    """All of them. The defaults are for a dispatcher without a configuration."""

    queue: QueueLimits = QueueLimits()  # noqa: RUF009 - frozen
    give_up_after_s: float = 600.0
    """How long a request that is under way may wait for another worker."""
    request_timeout_s: float | None = None
    retry_after_s: float = 5.0
    max_prefill_tokens: Mapping[Role, int | None] = field(default_factory=dict)
    headroom_tokens: Mapping[Role, int] = field(default_factory=dict)

    @classmethod
    def of_config(cls, config: BatonConfig) -> Limits:
        """The configured ones."""
        router, objectives = config.router, config.objectives
        waiting = router.queue
        return cls(
            queue=QueueLimits(
                waiting.max_requests,
                waiting.max_tokens,
                waiting.max_wait_s,
                objectives.horizon_s,
                objectives.refuse == "hopeless",
                objectives.makes_way == "longest",
                waiting.max_start_wait_s,
            ),
            give_up_after_s=router.retry.give_up_after_s,
            request_timeout_s=router.request_timeout_s,
            retry_after_s=router.retry_after_s,
            max_prefill_tokens={role: config.pool(role).max_prefill_tokens for role in Role},
            headroom_tokens={role: config.pool(role).headroom_tokens for role in Role},
        )

    def of(self, card: WorkerCard) -> Bounds:
        """The bounds of one worker."""
        most = max_prefill_tokens(self.max_prefill_tokens.get(card.role), card.facts)
        return Bounds(most, self.headroom_tokens.get(card.role, 0))
