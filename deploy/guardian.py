"""Ends what ``baton up`` has started and removes its files, also when ``baton up`` is killed and can end nothing itself.

A process of its own that does nothing but wait for the end of a pipe. Everything below ``baton up`` is known by a variable in
its environment, not by who its parent is: orphans have another parent, and HAProxy and engines are no children of Ray's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from deploy import run_state

MARK = "BATON_RUN"
"""The variable; its value is the run's directory."""

_GRACE_S = 2.0
_LIMIT_S = 15.0


def start(run: Path) -> subprocess.Popen[bytes]:
    """Starts the guardian of this process. It acts when its stdin is closed, which the end of this process does too."""
    # In a process group of its own: Ctrl-C and a closed terminal are for the process it guards.
    command = [sys.executable, "-m", "deploy.guardian", str(run), str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def end_all(run: Path) -> bool:
    """Asks every process of a run to end, kills those that do not, and those that they started meanwhile. False: some live on."""
    deadline = time.monotonic() + _LIMIT_S
    tell = psutil.Process.terminate
    while alive := _marked(run):
        if time.monotonic() > deadline:
            return False
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                tell(process)
        psutil.wait_procs(alive, timeout=_GRACE_S)
        tell = psutil.Process.kill
    return True


def _marked(run: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _mark(process) == str(run)]


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK) if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):  # gone meanwhile, or somebody else's
        return None


def main(run: Path, guarded: int) -> int:
    """Waits for the end of the guarded process, then sees to it that nothing of it is left."""
    sys.stdin.buffer.read()
    ended = end_all(run)
    shutil.rmtree(run, ignore_errors=True)
    run_state.forget(guarded)
    return 0 if ended else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
