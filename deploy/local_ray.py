"""A Ray cluster of this machine only, owned by this process: it comes with ``start`` and is gone without trace after ``stop``."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from pathlib import Path

from deploy import environment, guardian, run_state

_GRACE_S = 3.0
"""What Ray's processes get to end by themselves. Some never do: two of its agents wait for a parent that has gone."""

_ADDRESS = "address"
"""In the run's directory: where other commands find this Ray. Ray itself notes that only of clusters that `ray start` has made."""


class LocalRay:
    """``cpus`` is what Ray may hand out; it is bookkeeping only, so it is set to what the configuration asks for."""

    def __init__(self, cpus: float) -> None:
        self._cpus = cpus
        self._run = run_state.run_dir() / str(os.getpid())
        self._guardian: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts Ray's processes, some seconds. Raises RuntimeError when this process is in a cluster already.

        Call it on the main thread: Ray has Linux kill its processes when the *thread* that started them ends.
        """
        assert threading.current_thread() is threading.main_thread()
        environment.prepare(on_one_machine=True, files=run_state.haproxy_dir())
        self._guardian = guardian.start(self._run)
        os.environ[guardian.MARK] = str(self._run)
        import ray

        ray.init(
            address="local",
            num_cpus=max(1, round(self._cpus + 0.5)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(self._run),
        )
        (self._run / _ADDRESS).write_text(ray.get_runtime_context().gcs_address)

    @property
    def log_dir(self) -> Path:
        """Where Ray and everything in it write their logs, while it runs."""
        return self._run / "session_latest" / "logs"

    def stop(self) -> bool:
        """Ends every process that was started, and removes what they left. Some seconds; False: some process would not end."""
        if self._guardian is None:
            return True
        import ray

        shut = threading.Event()

        def hurry() -> None:
            """Ray's own shutdown waits half a minute for processes that do not end; those are told by us meanwhile."""
            if not shut.wait(_GRACE_S):
                guardian.end_all(self._run)

        threading.Thread(target=hurry, name="hurry-ray", daemon=True).start()
        ray.shutdown()
        shut.set()
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()
        ended = self._guardian.wait() == 0
        self._guardian = None
        return ended


def address_of(pid: int) -> str | None:
    """The address of the Ray cluster that the process with this number has started; None before Ray is up."""
    try:
        return (run_state.run_dir() / str(pid) / _ADDRESS).read_text()
    except FileNotFoundError:
        return None
