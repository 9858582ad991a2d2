"""Sockets that listen for TCP on this machine, each by its inode: a port may pass from one program to the next, an inode does not."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_LISTENS = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")


def listening() -> set[int]:
    """All in this network namespace."""
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a machine without IPv6
            rows = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
            found |= {int(row[9]) for row in rows if row[3] == _LISTENS}
    return found


def sockets_of(pid: int) -> set[int]:
    """Those that a process has, of any kind; none of one that has ended."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for descriptor in Path("/proc", str(pid), "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if told := _SOCKET.fullmatch(str(descriptor.readlink())):
                    found.add(int(told[1]))
    return found
