"""Numbers from a Prometheus that scrapes the routers, by its HTTP API."""

from __future__ import annotations

import asyncio
import math

import msgspec

from autoscaler.signals import Signals
from cluster.signals.base import Routers, SignalsMissingError, SignalSource, as_signals
from cluster.signals.http import Http
from cluster.signals.queries import AGE, QUERIES, filled
from core.ids import RouterId

_ANSWERS_WITHIN_S = 3.0


class Series(msgspec.Struct, frozen=True):
    """One of an instant query's results."""

    value: tuple[float, str]
    """When, and what."""
    metric: dict[str, str] = {}


class Vector(msgspec.Struct, frozen=True):
    result: list[Series] = []


class Answer(msgspec.Struct, frozen=True):
    """What ``/api/v1/query`` says."""

    status: str
    data: Vector = Vector()
    error: str = ""


_answer = msgspec.json.Decoder(Answer)


class PrometheusSource(SignalSource):
    """All queries at once, each about the moment at which Prometheus reads it: what is old is old by its own clock."""

    def __init__(self, url: str, app: str, routers: Routers, stale_s: float, window_s: float, token: str | None = None) -> None:
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._app = app
        self._routers = routers
        self._stale_s = stale_s
        self._window_s = window_s
        self._http = Http(_ANSWERS_WITHIN_S, {"authorization": f"Bearer {token}"} if token else None)

    async def read(self) -> Signals:
        routers = self._routers()
        if not routers:
            raise SignalsMissingError("no router is there, as far as the controller has heard")
        asked = [filled(query, self._app, routers, self._stale_s, self._window_s) for query in (AGE, *QUERIES.values())]
        try:
            ages, *found = await asyncio.gather(*map(self._ask, asked))
        except (OSError, msgspec.DecodeError) as error:
            raise SignalsMissingError(f"Prometheus does not answer: {str(error) or type(error).__name__}") from error
        seen = {RouterId(series.metric["instance"]): float(series.value[1]) for series in ages}
        if unseen := sorted(set(routers) - seen.keys()):
            more = f" and {len(unseen) - 1} more" if len(unseen) > 1 else ""
            raise SignalsMissingError(f"Prometheus has not scraped {unseen[0]}{more} in the last {self._stale_s:g} s")
        values = {name: float(series[0].value[1]) for name, series in zip(QUERIES, found, strict=True) if series}
        # A mean over nobody is NaN.
        return as_signals({name: value for name, value in values.items() if math.isfinite(value)}, max(0.0, *seen.values()))

    async def close(self) -> None:
        await self._http.close()

    async def _ask(self, query: str) -> list[Series]:
        answer = _answer.decode(await self._http.post(self._url, {"query": query, "timeout": f"{_ANSWERS_WITHIN_S:g}s"}))
        if answer.status != "success":
            raise OSError(answer.error)
        return answer.data.result
