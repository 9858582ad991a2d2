"""Whole servers as child processes of a test run: started in a group of their own, waited for, ended, and looked for afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

_POLL_S = 0.1


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(check: Callable[[], object], limit_s: float, what: str) -> None:
    """Returns as soon as ``check`` returns something true; fails after ``limit_s``, naming ``what`` and the last answer."""
    deadline = time.monotonic() + limit_s
    while not (answer := check()):
        assert time.monotonic() < deadline, f"after {limit_s:g} s still not: {what} (last answer: {answer!r})"
        time.sleep(_POLL_S)


class ServerProcess:
    """A server, what it has printed, and everything it may have started: all that has ``home`` as its ``TMPDIR``.

    ``home`` is a directory of its own for temporary files, sockets, run states and tokens. Short, because paths of sockets
    end after 107 characters, so not below pytest's.
    """

    def __init__(self, command: Sequence[str], home: Path, env: Mapping[str, str]) -> None:
        self.home = home
        self._log = home / "output.log"
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # where the demo model is, once it was built
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VLLM_"))}
        self.env = {**inherited, "HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1", **env}
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self.env, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself yet."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """All that was printed so far."""
        return self._log.read_text(errors="replace")

    def wait_ready(self, is_ready: Callable[[], bool], limit_s: float) -> None:
        """Waits until ``is_ready``; fails with the output when the process ends before or takes longer."""
        deadline = time.monotonic() + limit_s
        while not is_ready():
            status = self._process.poll()
            assert status is None, f"ended with status {status} before it was ready:\n{self.output}"
            assert time.monotonic() < deadline, f"not ready after {limit_s:g} s:\n{self.output}"
            time.sleep(_POLL_S)

    def terminate(self, limit_s: float) -> int:
        """Asks it to end, as Ctrl-C does, and waits for its exit status. Fails with the output when that takes longer."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {self.pid} has not ended in {limit_s:g} s:\n{self.output}") from None

    def survivors(self) -> list[psutil.Process]:
        """Every process of this server that lives, orphans included: those that did not detach, and those that have its ``TMPDIR``.

        Either alone would miss some: a process may detach itself, and one that sets its title overwrites its environment.
        """
        return [process for process in psutil.process_iter() if _is_of(process, self.pid, str(self.home))]

    def kill(self) -> None:
        """Ends whatever is left of it, at once. For the way out of a failed test."""
        for process in self.survivors():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(10.0)


def _is_of(process: psutil.Process, leader: int, temp_dir: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return os.getsid(process.pid) == leader or process.environ().get("TMPDIR") == temp_dir
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):  # gone meanwhile, or somebody else's
        return False
