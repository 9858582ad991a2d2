"""Which process spends how much CPU on a token: the profile behind the ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import psutil

_TITLES = {
    "ray::ServeReplica:baton:Router": "router",
    "ray::ServeReplica:baton:Controller": "controller",
    "ray::WorkerActor": "worker",
    "ray::": "Ray Serve's own actors",
    "haproxy": "HAProxy",
    "plain_server": "vLLM server",
    "instant_engine": "engine",
    "raylet": "raylet and GCS",
    "gcs_server": "raylet and GCS",
    "ray/": "Ray's other processes",
}
"""The first that a command line contains names the process."""


def us_per_token(work: Callable[[], int]) -> Mapping[str, float]:
    """CPU microseconds per token by kind of process, over all processes below this one, while ``work`` makes its tokens."""
    before = _cpu_seconds()
    tokens = work()
    spent: dict[str, float] = {}
    for process, seconds in _cpu_seconds().items():
        title = _title(process)
        if title is not None:
            spent[title] = spent.get(title, 0.0) + seconds - before.get(process, 0.0)
    return {title: 1e6 * seconds / tokens for title, seconds in sorted(spent.items(), key=lambda item: -item[1])}


def _cpu_seconds() -> dict[psutil.Process, float]:
    seconds = {}
    for process in psutil.Process().children(recursive=True):
        try:
            seconds[process] = sum(process.cpu_times()[:2])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return seconds


def _title(process: psutil.Process) -> str | None:
    try:
        command = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return None
    return next((title for part, title in _TITLES.items() if part in command), None)
