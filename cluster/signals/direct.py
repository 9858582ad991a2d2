"""Numbers from the routers themselves: the same expositions that Prometheus would scrape, asked for by the controller.

Workers are not asked: what scaling wants of them is in their reports, and of a thousand workers there are two routers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from autoscaler.signals import NEWEST_S, Arrived, Signals, spans_s
from cluster.signals.base import Routers, SignalsMissingError, SignalSource, as_signals
from cluster.signals.growth import Growth
from cluster.signals.http import Http
from cluster.signals.scrape import Scrape, parsed
from core.ids import RouterId
from core.metrics import of_requests as m
from core.metrics.words import ScalingInput

Fetch = Callable[[str], Awaitable[str]]
"""An exposition, by its address. Raises OSError."""

_ANSWERS_WITHIN_S = 1.0
"""A router that is busy for longer is taken at its last word; the scaler is told how old that is."""


class DirectSource(SignalSource):
    """Remembers what each router has counted within ``window_s``, also of those that have left."""

    def __init__(self, routers: Routers, window_s: float, fetch: Fetch | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is one that nobody sets."""
        self._routers = routers
        self._clock = clock
        self._window_s = window_s
        self._http = Http(_ANSWERS_WITHIN_S)
        self._fetch = fetch or (lambda address: self._http.get(f"http://{address}/metrics"))
        self._growth: dict[RouterId, Growth] = {}
        self._newest: dict[RouterId, Scrape] = {}
        self._began_s: float | None = None
        self._looked_s: float | None = None

    async def read(self) -> Signals:
        now_s, routers, looked_s = self._clock(), self._routers(), self._looked_s
        self._looked_s = now_s
        failed = await self._ask(routers, now_s)
        if not routers:
            raise SignalsMissingError("no router is there, as far as the controller has heard")
        if unheard := sorted(set(routers) - self._newest.keys()):
            raise SignalsMissingError(f"{unheard[0]} cannot be scraped at {routers[unheard[0]]}: {failed[unheard[0]]}")
        heard_s = [self._growth[router].heard_s or now_s for router in routers]
        flows = self._flows(now_s)
        latest = [self._arrived(over_s, now_s) for over_s in spans_s(now_s - looked_s)] if flows and looked_s is not None else ()
        return as_signals({**flows, **self._levels(routers)}, now_s - min(heard_s), latest)

    async def close(self) -> None:
        await self._http.close()

    async def _ask(self, routers: Mapping[RouterId, str], now_s: float) -> dict[RouterId, str]:
        """Those that did not answer, and why."""
        answers = await asyncio.gather(*(self._scrape(address) for address in routers.values()))
        failed: dict[RouterId, str] = {}
        for router, answer in zip(routers, answers, strict=True):
            if isinstance(answer, str):
                failed[router] = answer
                continue
            self._newest[router] = answer
            self._growth.setdefault(router, Growth(self._window_s)).heard(answer.counters, now_s)
            self._began_s = now_s if self._began_s is None else self._began_s
        for router in self._newest.keys() - routers.keys():
            del self._newest[router]
        old = [router for router, growth in self._growth.items() if now_s - (growth.heard_s or now_s) > self._window_s]
        for router in old:
            if router not in routers:  # one that is there and silent is told of by the age of what it said last
                del self._growth[router]
        return failed

    async def _scrape(self, address: str) -> Scrape | str:
        try:
            exposition = await self._fetch(address)
            return await asyncio.to_thread(parsed, exposition)
        except (OSError, ValueError) as error:
            return str(error) or type(error).__name__

    def _flows(self, now_s: float) -> dict[ScalingInput, float]:
        """What is counted. There is no rate of less than ``NEWEST_S``: two requests in a second are no rate of two a second."""
        watched_s = now_s - (now_s if self._began_s is None else self._began_s)
        if watched_s < NEWEST_S:
            return {}
        window_s = min(self._window_s, watched_s)
        grown = {total: self._grown(total, now_s - window_s) for total in ("arrivals", "prompt_tokens", "output_tokens", "ended", "hits")}
        asked = self._grown("asked", now_s - window_s)
        flows = {
            ScalingInput.ARRIVALS: self._offered(now_s - window_s) / window_s,
            ScalingInput.NEWEST: self._offered(now_s - NEWEST_S) / NEWEST_S,
        }
        if grown["arrivals"] > 0:
            flows[ScalingInput.PROMPT_TOKENS] = grown["prompt_tokens"] / grown["arrivals"]
        if grown["ended"] > 0:
            flows[ScalingInput.OUTPUT_TOKENS] = grown["output_tokens"] / grown["ended"]
        if asked > 0:
            flows[ScalingInput.HIT_RATE] = grown["hits"] / asked
        return flows

    def _arrived(self, over_s: float, now_s: float) -> Arrived:
        """Of those that were refused before anybody counted their tokens, as many as others have."""
        taken, offered = self._grown("arrivals", now_s - over_s), self._offered(now_s - over_s)
        return Arrived(over_s, offered, self._grown("prompt_tokens", now_s - over_s) * (offered / taken if taken > 0 else 0.0))

    def _offered(self, since_s: float) -> float:
        """As ``queries.QUERIES`` has it."""
        return self._grown("arrivals", since_s) + self._grown("refused", since_s) - self._grown("refused_later", since_s)

    def _grown(self, total: str, since_s: float) -> float:
        return sum(growth.since(total, since_s) for growth in self._growth.values())

    def _levels(self, routers: Mapping[RouterId, str]) -> dict[ScalingInput, float]:
        """What is there now."""
        gauges = [self._newest[router].gauges for router in routers]
        requests, decoding = (sum(each[entry.name] for each in gauges) for entry in (m.ROUTER_REQUESTS, m.DECODING_REQUESTS))
        return {
            ScalingInput.WAITING_TOKENS: sum(each[m.WAITING_TOKENS.name] for each in gauges),
            ScalingInput.WAITED: max(each[m.OLDEST_WAITING.name] for each in gauges),
            ScalingInput.COMPUTING: requests - decoding,
            ScalingInput.DECODING: decoding,
        }
