"""What several routers say, added up: each knows its own requests, and the ingress gives every question to whichever it likes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

State = dict[str, Any]
"""``GET /v1/baton/console``."""

_FORGOTTEN_S = 30.0
_SUMS = ("open_requests", "waiting_requests", "waiting_tokens", "flows_left_out", "kept_whole")


class TopRouters:
    """The last state of each router heard in the last half minute."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, State]] = {}

    def add(self, state: State, now_s: float) -> State:
        """One more answer; all that is known now in the same form, with ``routers`` beside."""
        self._heard[state["router"]] = (now_s, state)
        self._heard = {router: one for router, one in self._heard.items() if now_s - one[0] <= _FORGOTTEN_S}
        states = [one for _, one in self._heard.values()]
        return {
            **state,
            **{name: sum(one[name] for one in states) for name in _SUMS},
            "routers": sorted(self._heard),
            "oldest_waiting_s": max(one["oldest_waiting_s"] for one in states),
            "flows": _flows(flow for one in states for flow in one["flows"]),
            "requests": _newest(states, "requests", "arrived_at"),
            "decisions": _newest(states, "decisions", "decided_at"),
        }


def _newest(states: Iterable[State], what: str, when: str) -> list[State]:
    return sorted((row for state in states for row in state[what]), key=lambda row: -float(row[when]))


def _flows(flows: Iterable[State]) -> list[State]:
    pairs: dict[tuple[str, str], State] = {}
    for flow in flows:
        known = pairs.setdefault(
            (flow["prefill"], flow["decode"]), dict.fromkeys(flow, 0) | {"prefill": flow["prefill"], "decode": flow["decode"]}
        )
        for name in ("count", "transfer_bytes", "transfer_s", "recomputed"):
            known[name] += flow[name]
    return sorted(pairs.values(), key=lambda flow: (-flow["transfer_bytes"], -flow["count"]))
