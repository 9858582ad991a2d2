"""What idle workers cost: CPU seconds of each worker and its engine over a while in which nothing is asked of them."""

from __future__ import annotations

import time

import psutil


def idle_cpu_percent(over_s: float = 20.0) -> dict[str, float]:
    """Per cent of a core of every Baton worker on this machine, its engine process included; by the worker's process id."""
    workers = [process for process in psutil.process_iter() if _is_worker(process)]
    before = {process: _cpu_seconds(process) for process in workers}
    time.sleep(over_s)
    return {f"worker {process.pid}": 100.0 * (_cpu_seconds(process) - start) / over_s for process, start in before.items()}


def _cpu_seconds(process: psutil.Process) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in [process, *process.children(recursive=True)])


def _is_worker(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).startswith("ray::WorkerActor")
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False
