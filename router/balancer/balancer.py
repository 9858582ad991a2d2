"""The balancer: possible plans, priced by a policy, the cheapest taken, all of it written down."""

from __future__ import annotations

from router.balancer.base import Policy
from router.balancer.candidates import TOO_LONG, candidates
from router.plan import Ask, Decision, View


class Balancer:
    """One per router. ``choose`` is called once per request and again when a worker refused or was lost."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def choose(self, ask: Ask, view: View) -> Decision:
        """The decision at this moment; ``chosen`` is None when no worker can take the request now."""
        plans, rejected, kind = candidates(ask, view)
        if not plans:
            hopeless = bool(rejected) and all(reason.startswith(TOO_LONG) for reason in rejected.values())
            return Decision(None, (), rejected, "no worker can take it", hopeless)
        scored = self._policy.score(ask, plans, view)
        best = min(scored, key=lambda candidate: candidate.cost)
        self._policy.chosen(best.plan)
        return Decision(best, scored, rejected, kind)

    def is_possible(self, ask: Ask, view: View) -> bool:
        """Whether ``choose`` would find a plan now. Decides nothing."""
        return bool(candidates(ask, view)[0])
