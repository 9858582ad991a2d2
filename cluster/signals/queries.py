"""What Prometheus is asked: one query per number, in PromQL.

``$app`` is the Serve application, ``$window`` the time over which rates and means are taken, and ``$routers`` a regular expression of the
routers that are there now. Gauges are of these only: one that has left holds nothing any more. Rates are of all, for what it was asked
in the last minute was asked. A router whose last scrape failed is still taken at its word, for as long as numbers may be old at all
(``$stale``); ``AGE`` says how old each one's are.

The same numbers in words are in ``core.metrics.words.ScalingInput``, and the metrics in docs/metrics.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from string import Template

from autoscaler.signals import NEWEST_S
from core.ids import RouterId
from core.metrics import of_requests as m
from core.metrics.entry import Entry
from core.metrics.words import Outcome, ScalingInput, TokenKind, Why

AT_THE_DOOR = (Why.UNAUTHORIZED, Why.INVALID, Why.TOO_LARGE, Why.SLOW_BODY)
"""Refusals of what no number of workers could have served."""

_DOOR = f',reason!~"{"|".join(AT_THE_DOOR)}"'
_REFUSED, _NOT_REFUSED = (f',outcome{sign}"{Outcome.REFUSED}"' for sign in ("=", "!="))
_OUTPUT = f',kind="{TokenKind.OUTPUT}"'


def _rate(entry: Entry, matchers: str = "", window: str = "$window") -> str:
    """Per second, of all routers; nothing where nobody has counted any."""
    return f'sum(rate({entry.name}{{app="$app"{matchers}}}[{window}]))'


def _now(entry: Entry, how: str = "sum") -> str:
    """A gauge of the routers that are there."""
    return f'{how}(last_over_time({entry.name}{{app="$app",instance=~"$routers"}}[$stale]))'


def _offered(window: str) -> str:
    """Requests that were taken in, and those that were refused before: of all refusals for want of room, some came later."""
    refused, later = _rate(m.REFUSALS, _DOOR, window), _rate(m.REQUESTS, _REFUSED, window)
    return f"{_rate(m.ARRIVALS, window=window)} + ({refused} or vector(0)) - ({later} or vector(0))"


QUERIES: Mapping[ScalingInput, str] = {
    ScalingInput.ARRIVALS: _offered("$window"),
    # There only where Prometheus scrapes every five seconds: routers are asked for it themselves, and this is for when they do not answer.
    ScalingInput.NEWEST: _offered(f"{NEWEST_S:g}s"),
    ScalingInput.PROMPT_TOKENS: f"{_rate(m.PROMPT_TOKENS)} / {_rate(m.ARRIVALS)}",
    # Of requests that have ended: how long those are going to be that have not, nobody knows.
    ScalingInput.OUTPUT_TOKENS: f"{_rate(m.TENANT_TOKENS, _OUTPUT)} / {_rate(m.REQUESTS, _NOT_REFUSED)}",
    ScalingInput.HIT_RATE: f"{_rate(m.PREFIX_HITS)} / {_rate(m.PREFIX_ASKED)}",
    ScalingInput.WAITING_TOKENS: _now(m.WAITING_TOKENS),
    ScalingInput.WAITED: _now(m.OLDEST_WAITING, "max"),
    ScalingInput.COMPUTING: f"{_now(m.ROUTER_REQUESTS)} - {_now(m.DECODING_REQUESTS)}",
    ScalingInput.DECODING: _now(m.DECODING_REQUESTS),
}
AGE = f'time() - max by (instance) (max_over_time(timestamp({m.ROUTER_REQUESTS.name}{{app="$app",instance=~"$routers"}})[$stale:1s]))'
"""Seconds since each router was last scraped; without those that were not within ``$stale``."""


def filled(query: str, app: str, routers: Iterable[RouterId], stale_s: float, window_s: float) -> str:
    """``query`` about these."""
    pattern = "|".join(re.escape(router) for router in sorted(routers))
    return Template(query).substitute(app=_quoted(app), routers=_quoted(pattern), stale=_duration(stale_s), window=_duration(window_s))


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"


def _quoted(text: str) -> str:
    """As it stands between double quotes in PromQL."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
