"""The other routers of a model: asked for what this one does not know of a request, and answered.

They find each other by what the controller tells Prometheus, and ask at the address at which each is scraped. That address is open to
whoever is inside of the cluster, so every question has a proof that its asker knows the routers' private key. It is for this one question:
who has overheard it can ask again what he has overheard the answer to, and nothing else. Nothing can be set by asking.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote, unquote

from core.ids import RouterId
from router.decisions import explained
from router.timeline import TimelineBook

log = logging.getLogger(__name__)

PROOF = "x-baton-proof"
_WITHIN_S = 2.0
"""All of it: whoever asks why a request went somewhere does not wait long for a router that is gone."""
_DETAILS = ("requests", "decisions")

Targets = Callable[[], Awaitable[list[dict[str, Any]]]]
Secret = Callable[[], str | None]


class Get(Protocol):
    """Asks over HTTP. Raises OSError where there is no answer, or another status than 200."""

    async def get(self, url: str, headers: Mapping[str, str]) -> str:
        """The body."""

    async def close(self) -> None:
        """Ends its connections."""


def told(router: RouterId, book: TimelineBook, detail: str, request: str) -> dict[str, Any] | None:
    """What one router knows of a request: its timelines (``requests``), or why it went where it went (``decisions``). None: nothing."""
    timelines = book.of(request)
    if not timelines:
        return None
    if detail == "decisions":
        return {"router": router, "request": request, "decisions": [explained(timeline) for timeline in timelines]}
    return {"router": router, "request": request, "timelines": [timeline.as_dict() for timeline in timelines]}


class Colleagues:
    """One router's way to the others, and theirs to it. ``secret`` is the routers' private key; None until the controller has told it."""

    def __init__(self, router: RouterId, book: TimelineBook, secret: Secret, http: Get) -> None:
        self._router = router
        self._book = book
        self._secret = secret
        self._http = http

    async def find(self, detail: str, request: str, targets: Targets) -> dict[str, Any] | None:
        """What any of the others knows; None where nobody does, or nobody can be asked. Takes seconds at most, and raises nothing."""
        secret = self._secret()
        if secret is None:
            return None
        path, proof = f"/{detail}/{quote(request, safe='')}", _proof(secret, detail, request)
        asked: list[asyncio.Task[dict[str, Any] | None]] = []
        try:
            async with asyncio.timeout(_WITHIN_S):
                asked += [asyncio.create_task(self._ask(address, path, proof)) for address in _addresses(await targets(), self._router)]
                for answer in asyncio.as_completed(asked):
                    if (known := await answer) is not None:
                        return known
        except Exception as error:  # the controller is away, or somebody takes too long: then it is as if nobody knew
            log.warning("router: the other routers could not all be asked for request %r (%s)", request, type(error).__name__)
        finally:
            for each in asked:
                each.cancel()
        return None

    def answer(self, path: str, headers: Mapping[str, str]) -> bytes | None:
        """JSON for another router that asks; None for any other path, without proof, and where nothing is known."""
        secret = self._secret()
        _, detail, quoted = path.split("/", 2) if path.count("/") == 2 else ("", "", "")
        request = unquote(quoted)
        if secret is None or detail not in _DETAILS:
            return None
        if not hmac.compare_digest(headers.get(PROOF, "").encode(), _proof(secret, detail, request).encode()):
            return None
        known = told(self._router, self._book, detail, request)
        return None if known is None else json.dumps(known).encode()

    async def close(self) -> None:
        """Ends connections."""
        await self._http.close()

    async def _ask(self, address: str, path: str, proof: str) -> dict[str, Any] | None:
        try:
            known: dict[str, Any] = json.loads(await self._http.get(f"http://{address}{path}", {PROOF: proof}))
        except (OSError, ValueError):  # it does not know, or is gone
            return None
        return known


def _proof(secret: str, detail: str, request: str) -> str:
    return hmac.new(secret.encode(), f"baton colleagues {detail} {request}".encode(), hashlib.sha256).hexdigest()


def _addresses(targets: list[dict[str, Any]], own: RouterId) -> list[str]:
    """Of all other routers."""
    labels = [(target["targets"], target["labels"]) for target in targets]
    return [each for addresses, of in labels if of.get("component") == "router" and of["instance"] != own for each in addresses]
