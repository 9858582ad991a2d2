"""What a client may ask for itself, and what its request then gets: from headers, fields and the configuration to one ``WantedService``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from core.config import BatonConfig
from core.objectives_config import Objectives, TenantConfig, Wish
from router.internal_fields import Asked
from router.request_body import NotServableError
from router.service import WantedService

CLASS = b"x-baton-class"
TTFT_S, TPOT_S, DEADLINE_S = b"x-baton-ttft-s", b"x-baton-tpot-s", b"x-baton-deadline-s"
PRIORITY = b"x-baton-priority"

DEFAULT = "default"
"""The class that stands under ``objectives`` itself, and the tenant of those who do not say who they are."""

TIERS: Mapping[str, str | None] = {
    "auto": None,
    "default": DEFAULT,
    "standard_only": DEFAULT,  # Anthropic's word
    "flex": "flex",
    "priority": "priority",
    "scale": "scale",
}
"""``service_tier`` to the class of that name; None, or a class that is not configured: the tenant's default class."""

_LONGEST_S = 86_400.0
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?|\.\d{1,9}")
_INTEGER = re.compile(r"[+-]?\d{1,3}")
_TENANT = re.compile(r"[\w.@-]{1,64}", re.ASCII)
_NOBODY = TenantConfig()
_NOTHING_ASKED = Asked()

Headers = Mapping[bytes, bytes]
"""Names in small letters."""


class Promises:
    """Pure. All methods raise NotServableError, in words for the client, for what is not understood or not allowed.

    Whatever is asked for, a request's priority is never better than its tenant's ``best_priority``: a client can ask to be served
    later than others, and for a class with other objectives, but not to be served before them. Objectives alone do not bring it
    before other tenants, only before requests of its own.
    """

    def __init__(self, config: Objectives, tenant_header: str | None = "x-baton-tenant", trusts_header: bool = True) -> None:
        self._config = config
        self._tenant_header = tenant_header.encode() if tenant_header and trusts_header else None
        self._has_tiers = any(config.promise(name) is not None for name in TIERS.values() if name not in {None, DEFAULT})

    @classmethod
    def of_config(cls, config: BatonConfig) -> Promises:
        """The configured ones."""
        router = config.router
        return cls(config.objectives, router.tenant_header, router.trust_tenant_header or not router.api_keys.wanted)

    def tenant(self, key: str | None, headers: Headers) -> str:
        """Whose request it is: by the header where it is trusted, else by the name of the API key."""
        given = headers.get(self._tenant_header, b"") if self._tenant_header else b""
        if not given:
            return key or DEFAULT
        name = given.decode("latin-1")
        if not _TENANT.fullmatch(name):
            raise NotServableError(f"header `{_name(self._tenant_header or b'')}` has to be 1 to 64 letters, digits or any of _ . @ -")
        return name

    def wanted(self, tenant: str, headers: Headers, asked: Asked = _NOTHING_ASKED) -> WantedService:
        """What a request gets. A header wins over a field of the body, and what is said of one objective over its class."""
        config = self._config.tenants.get(tenant, _NOBODY)
        usual = config.default_class or self._config.default_class
        name = self._class(headers, asked.service_tier, usual)
        promise, usual_promise = self._config.promise(name), self._config.promise(usual)
        assert promise is not None
        assert usual_promise is not None
        priority = self._integer(headers)
        if priority is None and asked.priority is not None:
            self._check("priority", "field `priority`")
            priority = asked.priority
        bounds = (config.best_priority, self._config.best_priority, usual_promise.priority)
        best = next(bound for bound in bounds if bound is not None)
        return WantedService(
            tenant=tenant,
            class_name=name,
            priority=max(best, promise.priority if priority is None else priority),
            ttft_s=self._seconds(headers, TTFT_S, "ttft", promise.ttft_s),
            tpot_s=self._seconds(headers, TPOT_S, "tpot", promise.tpot_s),
            deadline_s=self._seconds(headers, DEADLINE_S, "deadline", promise.deadline_s),
            weight=config.weight,
        )

    def at_best(self, tenant: str, headers: Headers) -> WantedService:
        """The most that a request with these headers may turn out to get when its body is read: who is refused with this is refused."""
        wanted = self.wanted(tenant, headers)
        bodies = [Asked(priority=-100)] if self._may("priority") else []
        if CLASS not in headers and self._may("class") and self._has_tiers:
            bodies += [Asked(service_tier=tier) for tier in TIERS]
            wanted = replace(wanted, ttft_s=None, tpot_s=None, deadline_s=None)
        return replace(wanted, priority=min((wanted.priority, *(self.wanted(tenant, headers, body).priority for body in bodies))))

    def _class(self, headers: Headers, tier: str | None, usual: str) -> str:
        given = headers.get(CLASS)
        if given is not None:
            self._check("class", f"header `{_name(CLASS)}`")
            name = given.decode("latin-1")
            if self._config.promise(name) is None:
                known = ", ".join((DEFAULT, *self._config.classes))
                raise NotServableError(f"header `{_name(CLASS)}` names no class; the classes are {known}")
            return name
        if tier is None or not self._may("class"):
            return usual  # clients send a tier by habit, and OpenAI, too, serves what it does not grant as what it grants
        if tier not in TIERS:
            raise NotServableError(f"`service_tier` has to be one of {', '.join(TIERS)}")
        name = TIERS[tier] or usual
        return name if self._config.promise(name) is not None else usual

    def _seconds(self, headers: Headers, header: bytes, wish: Wish, otherwise: float | None) -> float | None:
        given = headers.get(header)
        if given is None:
            return otherwise
        self._check(wish, f"header `{_name(header)}`")
        text = given.decode("latin-1").strip()
        seconds = float(text) if _SECONDS.fullmatch(text) else 0.0
        if not 0 < seconds <= _LONGEST_S:
            raise NotServableError(f"header `{_name(header)}` has to be seconds, more than 0 and at most {_LONGEST_S:g}, like 0.5")
        return seconds

    def _integer(self, headers: Headers) -> int | None:
        given = headers.get(PRIORITY)
        if given is None:
            return None
        self._check("priority", f"header `{_name(PRIORITY)}`")
        text = given.decode("latin-1").strip()
        if not _INTEGER.fullmatch(text) or not -100 <= int(text) <= 100:
            raise NotServableError(f"header `{_name(PRIORITY)}` has to be an integer from -100, soonest, to 100, latest")
        return int(text)

    def _may(self, wish: Wish) -> bool:
        return wish in self._config.client_may

    def _check(self, wish: Wish, where: str) -> None:
        if not self._may(wish):
            raise NotServableError(f"{where} is not for clients here; leave it out")


def _name(header: bytes) -> str:
    return header.decode()
