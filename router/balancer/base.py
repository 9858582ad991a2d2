"""The policy interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from router.plan import Ask, Plan, Scored, View


class Policy(ABC):
    """Prices candidates. Pure but for what it remembers of its own decisions; never waits."""

    @abstractmethod
    def score(self, ask: Ask, candidates: Sequence[Plan], view: View) -> list[Scored]:
        """One cost and reason per candidate, in the same order. ``candidates`` is never empty; all its workers are in
        ``view``. The result is valid for this moment only. Raises nothing."""

    def chosen(self, plan: Plan) -> None:  # noqa: B027 - most policies keep no memory
        """Told which candidate was taken."""
