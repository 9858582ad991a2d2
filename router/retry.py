"""How often and how soon a request is tried again after an engine ended under it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_CLEARED_AFTER_TOKENS = 16
_FORGIVEN_AFTER_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Retry:
    """A budget. One lost engine is bad luck; several under one request may be its doing, and it must not end the whole pool."""

    max_losses: int = 3
    """Engines that may end under one request before it is given up, and workers that may lack its adapter."""
    backoff_s: float = 0.05
    jitter: Callable[[], float] = lambda: 0.5
    """A number in [0, 1), new each time: requests that lost the same engine come back one by one."""

    def is_spent(self, losses: int) -> bool:
        """Whether a request that has lost so many engines is given up."""
        return losses >= self.max_losses

    def is_suspect(self, losses: int) -> bool:
        """Whether one more loss would be the last. Requests in that state are tried one at a time: whoever then ends an engine
        is known, and those that merely were there when it happened get through."""
        return losses > 0 and losses == self.max_losses - 1

    def cleared(self, losses: int, tokens: int) -> int:
        """The losses still held against a request that has made so many tokens since the last one."""
        if tokens >= _FORGIVEN_AFTER_TOKENS:
            return 0
        return min(losses, max(0, self.max_losses - 2)) if tokens >= _CLEARED_AFTER_TOKENS else losses

    def pause_s(self, losses: int) -> float:
        """Seconds before the next try. None after the first loss: its client waits, and most losses are the only one."""
        return 0.0 if losses <= 1 else self.backoff_s * 2.0 ** (losses - 2) * (0.5 + self.jitter())
