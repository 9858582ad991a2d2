"""What every process of a cluster holds of the machine, over time."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psutil

from tests.support.cluster_process import Home

_TITLES = (
    ("ray::ServeReplica:baton:Router", "router"),
    ("ray::ServeReplica:baton:Controller", "controller"),
    ("ray::WorkerActor", "worker"),
    ("ray::ServeController", "Serve's controller"),
    ("ray::HAProxyManager", "Serve's HAProxy manager"),
    ("haproxy", "HAProxy"),
    ("raylet", "raylet"),
    ("gcs_server", "GCS"),
)
"""Whose growth is looked at, by what their command line contains."""


@dataclass(frozen=True)
class Holding:
    """One process at one moment."""

    at_s: float
    rss_mib: float
    files: int
    """File descriptors, sockets among them."""
    sockets: int


@dataclass
class Footprints:
    """The series of every process that was seen, by what it is and its number."""

    home: Home
    series: dict[tuple[str, int], list[Holding]] = field(default_factory=dict)

    def look(self) -> None:
        """Takes one sample of every process there is now."""
        for process in self.home.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                title = _title(process)
                if title:
                    sockets = len(process.net_connections("inet"))
                    held = Holding(time.monotonic(), process.memory_info().rss / 2**20, process.num_fds(), sockets)
                    self.series.setdefault((title, process.pid), []).append(held)

    def growth(self, between: tuple[float, float], and_: tuple[float, float], known_by_s: float = math.inf) -> list[Growth]:
        """Of each process that was there in both stretches of time, and seen by ``known_by_s``: medians of the first and the second."""
        grown = []
        for (title, pid), samples in self.series.items():
            first, second = (_within(samples, stretch) for stretch in (between, and_))
            if first and second and samples[0].at_s <= known_by_s:
                grown.append(Growth(title, pid, _median(first), _median(second)))
        return sorted(grown, key=lambda growth: (growth.title, growth.pid))


@dataclass(frozen=True)
class Growth:
    """What one process held in the middle of a first and of a second stretch of time."""

    title: str
    pid: int
    before: Holding
    after: Holding

    def is_flat(self, rss_limit: float = 0.10, slack_mib: float = 20.0, slack: int = 12) -> bool:
        """Memory within a tenth and some, descriptors and sockets within what the load itself moves them by."""
        rss = self.after.rss_mib - self.before.rss_mib <= rss_limit * self.before.rss_mib + slack_mib
        return rss and self.after.files - self.before.files <= slack and self.after.sockets - self.before.sockets <= slack

    def __str__(self) -> str:
        pairs = (
            (self.before.rss_mib, self.after.rss_mib),
            (self.before.files, self.after.files),
            (self.before.sockets, self.after.sockets),
        )
        return f"{self.title} | " + " | ".join(f"{before:.0f} → {after:.0f}" for before, after in pairs)


def table(grown: Iterable[Growth]) -> str:
    """For the page."""
    lines = ["| process | RSS MiB | file descriptors | sockets |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {growth} |" for growth in grown)])


def _title(process: psutil.Process) -> str | None:
    command = " ".join(process.cmdline())
    return next((title for part, title in _TITLES if part in command), None)


def _within(samples: Sequence[Holding], stretch: tuple[float, float]) -> list[Holding]:
    return [sample for sample in samples if stretch[0] <= sample.at_s <= stretch[1]]


def _median(samples: Sequence[Holding]) -> Holding:
    def of(values: Iterable[float]) -> float:
        return statistics.median(values)

    return Holding(
        of(s.at_s for s in samples), of(s.rss_mib for s in samples), int(of(s.files for s in samples)), int(of(s.sockets for s in samples))
    )
