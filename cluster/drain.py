"""A worker's way out: what runs may finish for a while, then its routers are asked to take it elsewhere. Pure."""

from __future__ import annotations

_ASK_AGAIN_S = 1.0

SETTLE_S = 5.0
"""Beyond the time legs and leases have: for messages on their way, and a controller that looks twice a second."""


def hard_limit_s(timeout_s: float, lease_s: float) -> float:
    """After so long a drain has failed, and the worker is ended with whatever it still has."""
    return timeout_s + lease_s + SETTLE_S


class Drain:
    """Legs have until ``timeout_s`` after ``began_s``."""

    def __init__(self, began_s: float, timeout_s: float) -> None:
        self.began_s = began_s
        self._ask_at_s = began_s + timeout_s

    def hasten(self, began_s: float, timeout_s: float) -> None:
        """Asked a second time: the earlier end counts."""
        self._ask_at_s = min(self._ask_at_s, began_s + timeout_s)

    def is_time_to_ask(self, now_s: float) -> bool:
        """Whether routers are to be asked now to move what is left; answers True once a second from the deadline on."""
        if now_s < self._ask_at_s:
            return False
        self._ask_at_s = now_s + _ASK_AGAIN_S
        return True
