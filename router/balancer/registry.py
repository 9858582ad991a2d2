"""Policies by the name the configuration uses."""

from __future__ import annotations

import random
from collections.abc import Callable

from core.errors import ConfigError
from router.balancer.base import Policy
from router.balancer.policies import LeastOutstandingTokens, Random, RoundRobin

_POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    "least_outstanding_tokens": LeastOutstandingTokens,
    "random": Random,
    "round_robin": lambda rng: RoundRobin(),
}


def make_policy(name: str, rng: random.Random) -> Policy:
    """Raises ConfigError for an unknown name, listing the known ones."""
    try:
        return _POLICIES[name](rng)
    except KeyError:
        raise ConfigError(f"unknown policy {name!r}; known: {', '.join(_POLICIES)}", "router.policy") from None
