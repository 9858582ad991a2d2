"""What a client may ask for, and what its request gets."""

from __future__ import annotations

from typing import Any

import pytest

from core.config import BatonConfig
from core.objectives_config import Objectives
from router.internal_fields import Asked
from router.objectives import TIERS, Promises
from router.request_body import NotServableError
from router.service import ORDINARY, WantedService, current_service, serving

CONFIG: dict[str, Any] = {
    "ttft_s": 2.0,
    "classes": {
        "gold": {"ttft_s": 0.5, "tpot_s": 0.03, "priority": -10},
        "flex": {"priority": 50},
        "priority": {"ttft_s": 1.0, "priority": -10},
    },
    "tenants": {
        "vip": {"weight": 4, "best_priority": -10},
        "bulk": {"default_class": "flex"},
        "golden": {"default_class": "gold"},
    },
}


def promises(**changed: Any) -> Promises:
    return Promises(Objectives.model_validate({**CONFIG, **changed}))


def headers(**given: str) -> dict[bytes, bytes]:
    return {f"x-baton-{name.replace('_', '-')}".encode(): value.encode() for name, value in given.items()}


USUAL: dict[str, Any] = {"class_name": "default", "ttft_s": 2.0}
GOLD: dict[str, Any] = {"class_name": "gold", "ttft_s": 0.5, "tpot_s": 0.03}
FLEX: dict[str, Any] = {"class_name": "flex", "priority": 50}

TABLE: dict[str, tuple[str, dict[bytes, bytes], Asked, dict[str, Any]]] = {
    "nothing": ("x", {}, Asked(), USUAL),
    "a class, not its priority": ("x", headers(**{"class": "gold"}), Asked(), GOLD),
    "a class, and its priority": ("vip", headers(**{"class": "gold"}), Asked(), {**GOLD, "priority": -10, "weight": 4.0}),
    "a class of lower priority": ("x", headers(**{"class": "flex"}), Asked(), FLEX),
    "the tenant's own class": ("bulk", {}, Asked(), FLEX),
    "the tenant's own better class": ("golden", {}, Asked(), {**GOLD, "priority": -10}),
    "no way up from the tenant's own class": ("bulk", headers(**{"class": "default"}), Asked(priority=-5), {**USUAL, "priority": 50}),
    "one objective": ("x", headers(ttft_s="0.25"), Asked(), {**USUAL, "ttft_s": 0.25}),
    "all of them, over a class": (
        "x",
        headers(**{"class": "gold"}, ttft_s="3", tpot_s=".1", deadline_s="60"),
        Asked(),
        {**GOLD, "ttft_s": 3.0, "tpot_s": 0.1, "deadline_s": 60.0},
    ),
    "later than others": ("x", headers(priority="7"), Asked(), {**USUAL, "priority": 7}),
    "sooner than others": ("x", headers(priority="-7"), Asked(), USUAL),
    "sooner, where it may": ("vip", headers(priority="-7"), Asked(), {**USUAL, "priority": -7, "weight": 4.0}),
    "sooner than it may": ("vip", headers(priority="-100"), Asked(), {**USUAL, "priority": -10, "weight": 4.0}),
    "a priority in the body": ("x", {}, Asked(priority=7), {**USUAL, "priority": 7}),
    "the header before the body": ("x", headers(priority="3"), Asked(priority=7), {**USUAL, "priority": 3}),
    "tier auto": ("bulk", {}, Asked(service_tier="auto"), FLEX),
    "tier default": ("x", {}, Asked(service_tier="default"), USUAL),
    "tier default, of one who has another class": ("bulk", {}, Asked(service_tier="default"), {**USUAL, "priority": 50}),
    "tier standard_only": ("x", {}, Asked(service_tier="standard_only"), USUAL),
    "tier flex": ("x", {}, Asked(service_tier="flex"), FLEX),
    "tier priority": ("x", {}, Asked(service_tier="priority"), {"class_name": "priority", "ttft_s": 1.0}),
    "tier priority, where it may": (
        "vip",
        {},
        Asked(service_tier="priority"),
        {"class_name": "priority", "ttft_s": 1.0, "priority": -10, "weight": 4.0},
    ),
    "a tier without a class": ("x", {}, Asked(service_tier="scale"), USUAL),
    "a class before a tier": ("x", headers(**{"class": "gold"}), Asked(service_tier="flex"), GOLD),
}


@pytest.mark.parametrize(("tenant", "given", "asked", "gets"), TABLE.values(), ids=TABLE.keys())
def test_what_a_request_gets(tenant: str, given: dict[bytes, bytes], asked: Asked, gets: dict[str, Any]) -> None:
    """The class's promises, the request's own over them, and never a better priority than the tenant's best."""
    assert promises().wanted(tenant, given, asked) == WantedService(tenant, **gets)


@pytest.mark.parametrize(("tenant", "given", "asked", "gets"), TABLE.values(), ids=TABLE.keys())
def test_the_most_it_may_get_is_known_before_the_body(tenant: str, given: dict[bytes, bytes], asked: Asked, gets: dict[str, Any]) -> None:
    """Who is refused before the body was read would be refused after, too."""
    most, wanted = promises().at_best(tenant, given), promises().wanted(tenant, given, asked)
    assert most.priority <= wanted.priority
    assert most.starts_within_s is None or (wanted.starts_within_s is not None and most.starts_within_s >= wanted.starts_within_s)


BAD: dict[str, tuple[dict[str, Any], dict[bytes, bytes], Asked, str]] = {
    "no such class": ({}, headers(**{"class": "silver"}), Asked(), "the classes are default, gold, flex, priority"),
    "no such tier": ({}, {}, Asked(service_tier="silver"), "`service_tier` has to be one of auto, default, "),
    "words": ({}, headers(ttft_s="soon"), Asked(), "header `x-baton-ttft-s` has to be seconds, more than 0"),
    "nothing at all": ({}, headers(tpot_s=""), Asked(), "`x-baton-tpot-s`"),
    "no time": ({}, headers(deadline_s="0.0"), Asked(), "`x-baton-deadline-s`"),
    "less than no time": ({}, headers(ttft_s="-1"), Asked(), "`x-baton-ttft-s`"),
    "all time": ({}, headers(ttft_s="86401"), Asked(), "at most 86400"),
    "not a number": ({}, headers(ttft_s="nan"), Asked(), "`x-baton-ttft-s`"),
    "a power": ({}, headers(ttft_s="1e-3"), Asked(), "`x-baton-ttft-s`"),
    "a high priority": ({}, headers(priority="101"), Asked(), "an integer from -100, soonest, to 100, latest"),
    "half a priority": ({}, headers(priority="1.5"), Asked(), "`x-baton-priority`"),
    "a class, though none may": (
        {"client_may": []},
        headers(**{"class": "gold"}),
        Asked(),
        "`x-baton-class` is not for clients here; leave",
    ),
    "a time, though none may": ({"client_may": ["class"]}, headers(ttft_s="1"), Asked(), "`x-baton-ttft-s` is not for clients"),
    "a priority, though none may": ({"client_may": []}, headers(priority="1"), Asked(), "`x-baton-priority` is not for clients"),
    "in the body, though none may": ({"client_may": []}, {}, Asked(priority=1), "field `priority` is not for clients"),
}


@pytest.mark.parametrize(("config", "given", "asked", "said"), BAD.values(), ids=BAD.keys())
def test_what_is_not_understood_or_not_allowed(config: dict[str, Any], given: dict[bytes, bytes], asked: Asked, said: str) -> None:
    """Refused, with what to write instead."""
    with pytest.raises(NotServableError, match=said):
        promises(**config).wanted("x", given, asked)


def test_a_tier_is_a_wish_and_no_demand() -> None:
    """Clients' libraries send it unasked: where clients may choose no class, it changes nothing."""
    assert promises(client_may=[]).wanted("x", {}, Asked(service_tier="flex")) == WantedService("x", **USUAL)


def test_every_client_may_have_a_better_priority() -> None:
    """Where the operator says so for all."""
    assert promises(best_priority=-20).wanted("x", headers(priority="-50")).priority == -20


def test_every_tier_leads_somewhere() -> None:
    """Without a single class configured, all of them are what everybody gets."""
    assert {Promises(Objectives()).wanted("default", {}, Asked(service_tier=tier)) for tier in TIERS} == {ORDINARY}


TENANTS: dict[str, tuple[dict[str, Any], str | None, dict[bytes, bytes], str]] = {
    "nobody says": ({}, None, {}, "default"),
    "a header": ({}, None, headers(tenant="team-a"), "team-a"),
    "a key": ({"api_keys": {"env": "K"}}, "alice", {}, "alice"),
    "a key, whatever the header says": ({"api_keys": {"env": "K"}}, "alice", headers(tenant="bob"), "alice"),
    "a gateway's header": ({"api_keys": {"env": "K"}, "trust_tenant_header": True}, "gateway", headers(tenant="bob"), "bob"),
    "a gateway without it": ({"api_keys": {"env": "K"}, "trust_tenant_header": True}, "gateway", {}, "gateway"),
    "another header": ({"tenant_header": "x-team"}, None, {b"x-team": b"b", b"x-baton-tenant": b"a"}, "b"),
    "no header at all": ({"tenant_header": None}, None, headers(tenant="a"), "default"),
}


@pytest.mark.parametrize(("router", "key", "given", "tenant"), TENANTS.values(), ids=TENANTS.keys())
def test_whose_request_it_is(router: dict[str, Any], key: str | None, given: dict[bytes, bytes], tenant: str) -> None:
    """With API keys the key says it; the header does without them, or where it is trusted."""
    config = BatonConfig.model_validate({"model": "m", "router": router})
    assert Promises.of_config(config).tenant(key, given) == tenant


@pytest.mark.parametrize("name", [b"a b", b"x" * 65, b"\xff", b"a/b"])
def test_a_tenants_name_is_a_name(name: bytes) -> None:
    """It ends up in metrics and logs."""
    with pytest.raises(NotServableError, match="x-baton-tenant"):
        promises().tenant(None, {b"x-baton-tenant": name})


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "a class called default": ({"classes": {"default": {}}}, "write its keys there"),
    "a default that is no class": ({"default_class": "gold"}, "the classes are default"),
    "a tenant's default that is none": ({"tenants": {"a": {"default_class": "gold"}}}, "tenants.a.default_class"),
    "a priority beyond the bounds": ({"classes": {"a": {"priority": 101}}}, "100"),
    "no weight": ({"tenants": {"a": {"weight": 0}}}, "weight"),
    "an unknown wish": ({"client_may": ["cake"]}, "client_may"),
}


@pytest.mark.parametrize(("config", "said"), CONFIGS.values(), ids=CONFIGS.keys())
def test_configurations_that_cannot_be_meant(config: dict[str, Any], said: str) -> None:
    """Refused when they are read."""
    with pytest.raises(ValueError, match=said):
        Objectives.model_validate(config)


def test_the_service_is_known_within() -> None:
    """And only there."""
    service = WantedService("a", priority=3)
    with serving(service):
        assert current_service() is service
    assert current_service() is ORDINARY
