"""Every metric of Baton's, by who tells it, and the tables that docs/metrics.md shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.metrics.entry import Entry
from core.metrics.of_pools import OF_POOLS
from core.metrics.of_requests import OF_HANDOFFS, OF_REQUESTS, OF_ROUTERS
from core.metrics.of_scaling import OF_SCALING
from core.metrics.of_workers import OF_WORKERS

CHAPTERS: Mapping[str, Sequence[Entry]] = {
    "requests": OF_REQUESTS,
    "handoffs": OF_HANDOFFS,
    "routers": OF_ROUTERS,
    "workers": OF_WORKERS,
    "pools": OF_POOLS,
    "scaling": OF_SCALING,
}
"""By the names of their tables in docs/metrics.md."""

CATALOGUE: Mapping[str, Entry] = {entry.name: entry for entries in CHAPTERS.values() for entry in entries}


def table(entries: Sequence[Entry]) -> str:
    """Markdown."""
    rows = ["| metric | type | what | when it moves |", "|---|---|---|---|"]
    for entry in entries:
        labels = f"{{{','.join(entry.labels)}}}" if entry.labels else ""
        rows.append(f"| `{entry.name}{labels}` | {entry.kind} | {entry.meaning} | {entry.when_it_moves} |")
    return "\n".join(rows)


def filled(page: str) -> str:
    """``page`` with every table as it is now: between ``<!-- metrics: NAME -->`` and ``<!-- end -->``. Raises ValueError without one."""
    for name, entries in CHAPTERS.items():
        begin = f"<!-- metrics: {name} -->\n"
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition("<!-- end -->")
        if not found or not ended:
            raise ValueError(f"the page has no place for the metrics of {name}")
        page = f"{before}{begin}{table(entries)}\n{ended}{after}"
    return page
