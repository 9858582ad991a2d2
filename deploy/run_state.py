"""The note that ``baton up`` leaves while it runs, so that ``baton status`` and ``baton down`` in another terminal find it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import msgspec
import psutil


class RunState(msgspec.Struct, frozen=True):
    """One running ``baton up``. The start time tells its process from a later one with the same number."""

    pid: int
    started_at: float
    url: str
    app: str
    file: str

    @property
    def is_running(self) -> bool:
        """Whether that very process still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < 0.01
            return same and process.status() != psutil.STATUS_ZOMBIE  # in containers, orphans often find nobody to bury them
        except psutil.NoSuchProcess:
            return False


_LONGEST_RUN_DIR = 107 - len("/h/" + 56 * "0" + "/admin.sock.4194304.tmp")
"""Paths of sockets end after 107 characters. The longest here is HAProxy's: node id, name, and its process while it starts."""


def run_dir() -> Path:
    """Baton's directory of running things, for this user only: in ``TMPDIR``, or in /tmp when that is too long for sockets."""
    path = Path(tempfile.gettempdir()) / f"baton-{os.getuid()}"
    if len(str(path)) > _LONGEST_RUN_DIR:
        path = Path("/tmp") / path.name
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to somebody else; remove it, or set TMPDIR to a directory of your own")
    return path


def haproxy_dir() -> Path:
    """Where Serve's HAProxy keeps its sockets and files."""
    return run_dir() / "h"


def log_file() -> Path:
    """What an `up --detach` says."""
    return run_dir() / "up.log"


def write(url: str, app: str, file: str) -> RunState:
    """Notes that this process runs Baton."""
    me = psutil.Process()
    state = RunState(me.pid, me.create_time(), url, app, file)
    (run_dir() / "up.json").write_bytes(msgspec.json.encode(state))
    return state


def read() -> RunState | None:
    """The running ``baton up`` of this user, if there is one."""
    state = _noted()
    return state if state is not None and state.is_running else None


def _noted() -> RunState | None:
    try:
        return msgspec.json.decode((run_dir() / "up.json").read_bytes(), type=RunState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def forget(pid: int) -> None:
    """Takes away the note and the files of a ``baton up`` that has ended, unless another one has begun meanwhile."""
    state = _noted()
    if state is None or state.pid == pid:
        (run_dir() / "up.json").unlink(missing_ok=True)
        shutil.rmtree(haproxy_dir(), ignore_errors=True)
