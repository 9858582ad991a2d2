"""Policies by the name the configuration uses. docs/policies.md says what each does."""

from __future__ import annotations

import random
from collections.abc import Callable

from core.errors import ConfigError
from router.balancer.balancer import Balancer
from router.balancer.base import Policy, Predictions
from router.balancer.dynamo_kv import DynamoKv, DynamoKvConditional
from router.balancer.joint import Joint
from router.balancer.least_outstanding_tokens import LeastOutstandingTokens
from router.balancer.llmd_decode_first import LlmdDecodeFirst
from router.balancer.mooncake_ttft import MooncakeTtft
from router.balancer.power_of_two import PowerOfTwo
from router.balancer.random_choice import Random
from router.balancer.round_robin import RoundRobin
from router.balancer.sglang_cache_aware import SglangCacheAware

_POLICIES: dict[str, Callable[[random.Random, Predictions], Policy]] = {
    "baton": lambda rng, predictions: Joint(predictions, rng),
    "dynamo_kv": lambda rng, predictions: DynamoKv(rng),
    "dynamo_kv_conditional": lambda rng, predictions: DynamoKvConditional(rng),
    "least_outstanding_tokens": lambda rng, predictions: LeastOutstandingTokens(rng),
    "llmd_decode_first": lambda rng, predictions: LlmdDecodeFirst(rng),
    "mooncake_ttft": MooncakeTtft,
    "power_of_two": lambda rng, predictions: PowerOfTwo(rng),
    "random": lambda rng, predictions: Random(rng),
    "round_robin": lambda rng, predictions: RoundRobin(rng),
    "sglang_cache_aware": lambda rng, predictions: SglangCacheAware(rng),
}
POLICIES = tuple(_POLICIES)
"""All names."""


def make_policy(name: str, rng: random.Random, predictions: Predictions) -> Policy:
    """Raises ConfigError for an unknown name, listing the known ones."""
    try:
        make = _POLICIES[name]
    except KeyError:
        raise ConfigError(f"unknown policy {name!r}; known: {', '.join(_POLICIES)}", "router.policy") from None
    return make(rng, predictions)


def make_balancer(name: str, rng: random.Random, predictions: Predictions) -> Balancer:
    """With the policy of that name, and predictions also where it makes none itself. Raises ConfigError like ``make_policy``."""
    return balancer_of(make_policy(name, rng, predictions), rng, predictions)


def balancer_of(policy: Policy, rng: random.Random, predictions: Predictions) -> Balancer:
    """A balancer that predicts by itself what ``policy`` does not: requests are refused early under every one."""
    return Balancer(policy, rng, oracle=policy if isinstance(policy, Joint) else Joint(predictions, rng))
