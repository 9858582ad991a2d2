"""Tells an engine that hangs from one that is idle, and from one at work on something long. Pure; ``engine_watch`` asks and acts."""

from __future__ import annotations

from enum import Enum, auto


class Verdict(Enum):
    """What is to be done."""

    WAIT = auto()
    PROBE = auto()
    """Call something cheap. An engine that answers lives: vLLM tells nothing of the steps of a long prompt but the last."""
    HUNG = auto()


class StallWatch:
    """Counts the seconds in which an engine had work and gave no sign of life.

    Seconds in which nobody looked count little: when this process itself was stopped for a while, the engine is not to blame.
    """

    def __init__(self, limit_s: float, now_s: float) -> None:
        self._limit_s = limit_s
        self._looked_at_s = now_s
        self._silent_s = 0.0

    def lived(self) -> None:
        """A step ended, or a call was answered."""
        self._silent_s = 0.0

    def look(self, has_legs: bool, now_s: float) -> Verdict:
        """To be asked at least four times per limit. KV that is kept for others is no work: only legs are."""
        passed_s, self._looked_at_s = now_s - self._looked_at_s, now_s
        self._silent_s = self._silent_s + min(passed_s, self._limit_s / 4) if has_legs else 0.0
        if self._silent_s >= self._limit_s:
            return Verdict.HUNG
        return Verdict.PROBE if self._silent_s >= self._limit_s / 2 else Verdict.WAIT
