"""A Ray cluster of this machine only, owned by this process: it comes with ``start`` and is gone without trace after ``stop``."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from pathlib import Path

import psutil

from deploy import environment, run_state

_GRACE_S = 3.0
"""What Ray's processes get to end by themselves. Some never do: two of its agents wait for a parent that has gone."""


class LocalRay:
    """``cpus`` is what Ray may hand out; it is bookkeeping only, so it is set to what the configuration asks for."""

    def __init__(self, cpus: float) -> None:
        self._cpus = cpus
        self._temp_dir: Path | None = None

    def start(self) -> None:
        """Starts Ray's processes, some seconds. Raises RuntimeError when this process is in a cluster already."""
        environment.prepare(on_one_machine=True)
        import ray

        self._temp_dir = run_state.run_dir() / str(os.getpid())
        ray.init(
            address="local",
            num_cpus=max(1, round(self._cpus + 0.5)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(self._temp_dir),
        )

    @property
    def log_dir(self) -> Path | None:
        """Where Ray and everything in it write their logs, while it runs."""
        return self._temp_dir and self._temp_dir / "session_latest" / "logs"

    def stop(self) -> None:
        """Ends every process that was started, and removes what they left. At most some seconds; may be called twice."""
        import ray

        children = _descendants()
        # Ray's own shutdown waits half a minute for processes that do not end; those are told by us meanwhile.
        threading.Thread(target=_end, args=(children,), daemon=True).start()
        ray.shutdown()
        psutil.wait_procs(children, timeout=2 * _GRACE_S)
        if self._temp_dir is not None:
            shutil.rmtree(self._temp_dir, ignore_errors=True)


def _end(processes: list[psutil.Process]) -> None:
    """Waits for processes to end, tells those that have not to, and kills the rest."""
    _gone, alive = psutil.wait_procs(processes, timeout=_GRACE_S)
    for tell in (psutil.Process.terminate, psutil.Process.kill):
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                tell(process)
        _gone, alive = psutil.wait_procs(alive, timeout=1.0)


def _descendants() -> list[psutil.Process]:
    """All processes below this one, some of which will be orphans once their parents have ended."""
    deadline = time.monotonic() + 1.0
    while True:
        try:
            return psutil.Process().children(recursive=True)
        except psutil.NoSuchProcess:  # one ended while the list was made
            if time.monotonic() > deadline:
                raise
