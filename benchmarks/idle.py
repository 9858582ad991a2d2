"""What idle workers cost: CPU seconds of each engine and its worker over a while in which nothing is asked of them."""

from __future__ import annotations

import time

import psutil


def idle_cpu_percent(over_s: float = 20.0) -> dict[str, float]:
    """Per cent of a core, by process title, of every worker and engine process of this machine's user."""
    titles = {process: title for process in psutil.process_iter() if (title := _title(process))}
    before = {process: sum(process.cpu_times()[:2]) for process in titles}
    time.sleep(over_s)
    return {
        f"{titles[process]} {process.pid}": 100.0 * (sum(process.cpu_times()[:2]) - spent) / over_s for process, spent in before.items()
    }


def _title(process: psutil.Process) -> str | None:
    """``worker`` or ``engine``; None for processes that are neither."""
    try:
        command = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return None
    if command.startswith("ray::WorkerActor"):
        return "worker"
    return "engine" if command.startswith("VLLM::EngineCore") else None
