"""What one scrape of a router says, as far as scaling is concerned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cluster.signals.queries import AT_THE_DOOR
from core.metrics import of_requests as m
from core.metrics.words import Outcome, TokenKind

Series = tuple[str, ...]
"""One counter of a process: whose total it belongs to, and the values of its labels."""


def _refusal(labels: Mapping[str, str]) -> str | None:
    return None if labels.get("reason") in AT_THE_DOOR else "refused"


def _ended(labels: Mapping[str, str]) -> str | None:
    return "refused_later" if labels.get("outcome") == Outcome.REFUSED else "ended"


def _tokens(labels: Mapping[str, str]) -> str | None:
    return "output_tokens" if labels.get("kind") == TokenKind.OUTPUT else None


WHOLE: Mapping[str, str] = {
    m.ARRIVALS.name: "arrivals",
    m.PROMPT_TOKENS.name: "prompt_tokens",
    m.PREFIX_HITS.name: "hits",
    m.PREFIX_ASKED.name: "asked",
}
"""Totals of counters whose labels do not matter: of the last two there is one for every worker."""
COUNTERS: Mapping[str, Callable[[Mapping[str, str]], str | None]] = {
    m.REFUSALS.name: _refusal,
    m.REQUESTS.name: _ended,
    m.TENANT_TOKENS.name: _tokens,
}
"""Whose total a counter belongs to, by its labels; None: to nobody's."""
GAUGES = {entry.name for entry in (m.ROUTER_REQUESTS, m.DECODING_REQUESTS, m.WAITING_TOKENS, m.OLDEST_WAITING)}
_NAMES = (*WHOLE, *COUNTERS, *GAUGES)


@dataclass(frozen=True, slots=True)
class Scrape:
    """Counters by their series, and gauges by their names."""

    counters: dict[Series, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)


def parsed(exposition: str) -> Scrape:
    """Raises ValueError for what is no exposition, or not a router's. ``exposition`` is in Prometheus' text format, as routers write it."""
    scrape, lines = Scrape(), [line for line in exposition.splitlines() if line.startswith(_NAMES)]
    labelled: list[str] = []
    for line in lines:
        # A line is a name, labels and, behind the last blank, a number: the client library's parser takes 15 us for each to say the same.
        series, _, value = line.rpartition(" ")
        total = WHOLE.get(series.partition("{")[0])
        if total is None:
            labelled.append(line)
        else:
            scrape.counters[total, series] = float(value)
    for family in text_string_to_metric_families("\n".join([*labelled, ""])):
        for sample in family.samples:
            _take(scrape, sample)
    if missing := GAUGES - scrape.gauges.keys():
        raise ValueError(f"it tells nothing of {', '.join(sorted(missing))}")
    return scrape


def _take(scrape: Scrape, sample: Sample) -> None:
    if sample.name in GAUGES:
        scrape.gauges[sample.name] = sample.value
    elif (total_of := COUNTERS.get(sample.name)) and (total := total_of(sample.labels)):
        scrape.counters[total, *sample.labels.values()] = sample.value
