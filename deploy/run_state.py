"""The note that ``baton up`` leaves while it runs, so that ``baton status`` and ``baton down`` in another terminal find it."""

from __future__ import annotations

import os
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
            return abs(psutil.Process(self.pid).create_time() - self.started_at) < 0.01
        except psutil.NoSuchProcess:
            return False


def run_dir() -> Path:
    """Baton's directory of running things, for this user only. Short: socket paths end after 107 characters."""
    path = Path(tempfile.gettempdir()) / f"baton-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to somebody else; remove it, or set TMPDIR to a directory of your own")
    return path


def write(url: str, app: str, file: str) -> RunState:
    """Notes that this process runs Baton."""
    me = psutil.Process()
    state = RunState(me.pid, me.create_time(), url, app, file)
    (run_dir() / "up.json").write_bytes(msgspec.json.encode(state))
    return state


def read() -> RunState | None:
    """The running ``baton up`` of this user, if there is one."""
    try:
        state = msgspec.json.decode((run_dir() / "up.json").read_bytes(), type=RunState)
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        return None
    return state if state.is_running else None


def clear() -> None:
    """Takes the note away."""
    (run_dir() / "up.json").unlink(missing_ok=True)
