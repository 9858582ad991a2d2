"""Cutting connections of other processes without touching the machine's firewall.

A socket of another process is duplicated into this one for a moment, and a packet filter that drops everything is attached
to it. What arrives then vanishes as on a broken link: no reset, no end of file. Done to both ends, nothing passes either way,
acknowledgements included; done to a listening socket, nobody new gets in. Needs the right to trace those processes.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

_PIDFD_GETFD = 438  # on every architecture
_ATTACH_FILTER, _DETACH_FILTER = 26, 27
_DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # one instruction: return 0 bytes of the packet
_PROGRAM = struct.pack("HL", 1, ctypes.addressof(_DROP_ALL))
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Where:
    """The TCP sockets of one process that a cut goes through."""

    pid: int
    is_cut: Callable[[Any], bool]
    """Asked about each of psutil's connections of the process."""


class Cut:
    """Makes and mends a cut. Sockets opened meanwhile are not part of it, except through a listening one that is."""

    def __init__(self, places: Sequence[Where]) -> None:
        self._places = places

    def make(self) -> None:
        """Raises PermissionError where this process may not do that to the other."""
        found = 0
        for place in self._places:
            for ours in _duplicates(place):
                with ours:
                    ours.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, _PROGRAM)
                    found += 1
        assert found, "there is no such connection to cut"

    def mend(self) -> None:
        """What has been closed meanwhile needs no mending."""
        for place in self._places:
            for ours in _duplicates(place):
                with ours:
                    try:
                        ours.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
                    except FileNotFoundError:
                        pass  # opened since


def why_not(pid: int) -> str | None:
    """Why sockets of a process cannot be cut here; None if they can."""
    try:
        os.close(_getfd(pid, 0))
    except OSError as error:
        return f"file descriptors of process {pid} cannot be duplicated ({error.strerror}); it takes the right to trace it"
    return None


def connections(pid: int) -> list[Any]:
    """psutil's view of a process's TCP sockets; none of one that is gone."""
    try:
        return list(psutil.Process(pid).net_connections("tcp"))
    except psutil.NoSuchProcess:
        return []


def _duplicates(place: Where) -> list[socket.socket]:
    """Closed at once after use: while one is open, the other process cannot close that connection."""
    duplicates = []
    for connection in connections(place.pid):
        if connection.fd >= 0 and place.is_cut(connection):
            try:
                duplicates.append(socket.socket(fileno=_getfd(place.pid, connection.fd)))
            except (ProcessLookupError, OSError) as error:
                if isinstance(error, PermissionError):
                    raise
    return duplicates


def _getfd(pid: int, fd: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        ours = _libc.syscall(_PIDFD_GETFD, pidfd, fd, 0)
        if ours < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(ours)
    finally:
        os.close(pidfd)
