"""What one scrape of a router says, as far as scaling is concerned."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from cluster.signals.queries import AT_THE_DOOR
from core.metrics import of_requests as m
from core.metrics.words import Outcome, TokenKind

Series = str
"""One counter of a process: its name and its labels, as they are written."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Whose total a counter belongs to, by what one of its labels says; None: to nobody's."""

    label: str
    total: Callable[[str], str | None]

    def of(self, series: Series) -> str | None:
        """By the word behind the label. There is no other place in which its name, ``="`` and a word with a quotation mark behind it can
        stand: in values of labels, quotation marks have a backslash before them."""
        said = re.search(rf'[{{,]{self.label}="(\w*)"', series)
        return self.total(said[1] if said else "")


WHOLE: Mapping[str, str] = {
    m.ARRIVALS.name: "arrivals",
    m.PROMPT_TOKENS.name: "prompt_tokens",
    m.PREFIX_HITS.name: "hits",
    m.PREFIX_ASKED.name: "asked",
}
"""Totals of counters whose labels do not matter: of the last two there is one for every worker."""
COUNTERS: Mapping[str, Labelled] = {
    m.REFUSALS.name: Labelled("reason", lambda why: None if why in AT_THE_DOOR else "refused"),
    m.REQUESTS.name: Labelled("outcome", lambda outcome: "refused_later" if outcome == Outcome.REFUSED else "ended"),
    m.TENANT_TOKENS.name: Labelled("kind", lambda kind: "output_tokens" if kind == TokenKind.OUTPUT else None),
}
GAUGES = {entry.name for entry in (m.ROUTER_REQUESTS, m.DECODING_REQUESTS, m.WAITING_TOKENS, m.OLDEST_WAITING)}
_FAMILY = "\n# TYPE "
"""What a metric's samples stand behind, all of them and no others; before it stands what the metric means."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """Counters by whose total they belong to, and gauges by their names."""

    counters: dict[str, dict[Series, float]] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)


def parsed(exposition: str) -> Scrape:
    """Raises ValueError for what is no exposition, or not a router's. ``exposition`` is in Prometheus' text format, as routers write it.

    The client library's parser takes 15 us for each sample; of a thousand workers a router has thousands.
    """
    scrape = Scrape()
    for family in exposition.split(_FAMILY)[1:]:
        name = family[: family.find(" ")]
        if total := WHOLE.get(name):
            scrape.counters[total] = dict(_samples(family))
        elif labelled := COUNTERS.get(name):
            for series, value in _samples(family):
                if total := labelled.of(series):
                    scrape.counters.setdefault(total, {})[series] = value
        elif name in GAUGES:
            scrape.gauges.update((name, value) for _, value in _samples(family))
    if missing := GAUGES - scrape.gauges.keys():
        raise ValueError(f"it tells nothing of {', '.join(sorted(missing))}")
    return scrape


def _samples(family: str) -> Iterator[tuple[Series, float]]:
    """A sample is a name, labels and, behind the last blank, a number. The first line has the metric's type, the last may be a comment."""
    for line in family.split("\n")[1:]:
        if line and line[0] != "#":
            series, _, value = line.rpartition(" ")
            yield series, float(value)
