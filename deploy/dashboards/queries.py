"""PromQL, put together from entries of the catalogue. Every query is of the application that the dashboard's ``app`` names."""

from __future__ import annotations

import re

from core.metrics.entry import Entry, Kind
from core.metrics.of_workers import OF_WORKERS

APP = "app"
_CHOSEN = 'app=~"$app"'
WINDOW = "$__rate_interval"
"""Grafana's: the graph's step, and at least four scrapes."""
_OF_TARGETS = frozenset({APP, "component", "instance", "job"})
_OF_A_WORKER = frozenset({"worker", "role"})


def series(entry: Entry, *matchers: str, part: str = "") -> str:
    """``entry``'s series that fit all ``matchers``, each like ``result="met"``; of a histogram its ``bucket``, ``sum`` or ``count``.

    Raises ValueError where the metric is of another kind, or lacks the label.
    """
    if (entry.kind is Kind.HISTOGRAM) != bool(part):
        raise ValueError(f"{entry.name} is a {entry.kind}")
    _check_labels(entry, *(re.split("[=!]", matcher)[0] for matcher in matchers))
    name = f"{entry.name}_{part}" if part else entry.name
    return f"{name}{{{','.join([_CHOSEN, *matchers])}}}"


def vllm(name: str) -> str:
    """vLLM's own, by its name without ``vllm:``. Every one has the labels ``worker`` and ``role``, too."""
    return f"vllm:{name}{{{_CHOSEN}}}"


def rate(entry: Entry, *matchers: str, by: str = "", part: str = "") -> str:
    """Per second, added up over processes; one series for each value of the labels in ``by``, which are separated by commas."""
    _check_labels(entry, *_split(by))
    return total(f"rate({series(entry, *matchers, part=part)}[{WINDOW}])", by)


def increase(entry: Entry, *matchers: str, by: str = "") -> str:
    """How many in each window: for what happens now and then."""
    _check_labels(entry, *_split(by))
    return total(f"increase({series(entry, *matchers)}[{WINDOW}])", by)


def level(entry: Entry, *matchers: str, by: str = "", how: str = "sum") -> str:
    """A gauge, as it is; ``how`` is what is done with the series of several processes."""
    _check_labels(entry, *_split(by))
    return total(series(entry, *matchers), by, how)


def quantile(share: float, entry: Entry, *matchers: str, by: str = "") -> str:
    """Of a histogram, over all processes."""
    buckets = rate(entry, *matchers, by=",".join([*_split(by), "le"]), part="bucket")
    return f"histogram_quantile({share:g}, {buckets})"


def cells(entry: Entry, *matchers: str) -> str:
    """How many observations of a histogram fell into each bucket, in each window; for a heat map."""
    return total(f"increase({series(entry, *matchers, part='bucket')}[{WINDOW}])", "le")


def mean(entry: Entry, *matchers: str, by: str = "") -> str:
    """Of a histogram, over all processes."""
    return f"{rate(entry, *matchers, by=by, part='sum')} / {rate(entry, *matchers, by=by, part='count')}"


def total(expression: str, by: str = "", how: str = "sum") -> str:
    """Added up, or whatever ``how`` says."""
    return f"{how} by ({', '.join(_split(by))}) ({expression})" if by else f"{how}({expression})"


def _split(by: str) -> list[str]:
    return [label.strip() for label in by.split(",") if label.strip()]


def _check_labels(entry: Entry, *labels: str) -> None:
    known = {*entry.labels, *_OF_TARGETS, *(_OF_A_WORKER if entry in OF_WORKERS else ()), *({"le"} if entry.kind is Kind.HISTOGRAM else ())}
    if unknown := set(labels) - known:
        raise ValueError(f"{entry.name} has no label {', '.join(sorted(unknown))}")
