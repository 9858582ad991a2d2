"""The last things that plans asked for, with their times: an hour later the plans that did are no longer kept. Pure."""

from __future__ import annotations

from collections import deque

import msgspec

from autoscaler.plan import Action, Plan, said

KEPT_ACTIONS = 12


class Asked(msgspec.Struct, frozen=True):
    """One action of one plan, in words."""

    at_s: float
    """Unix time of the plan."""
    text: str
    dry_run: bool
    """Nobody was to do it."""


class RecentActions:
    """Told of every plan. In a dry run plans ask for the same until it is no longer wanted: that is listed once."""

    def __init__(self) -> None:
        self._asked: deque[Asked] = deque(maxlen=KEPT_ACTIONS)
        self._recommended: tuple[Action, ...] = ()

    def planned(self, plan: Plan) -> list[Action]:
        """The next one; what of it is new."""
        new = [action for action in plan.actions if not (plan.dry_run and action in self._recommended)]
        self._asked += [Asked(plan.at_s, said(action), plan.dry_run) for action in new]
        self._recommended = plan.actions if plan.dry_run else ()
        return new

    def newest(self) -> list[Asked]:
        """The newest first."""
        return list(reversed(self._asked))
