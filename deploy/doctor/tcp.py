"""Round trips and bytes by plain TCP between two addresses: what the data plane's messages go by, and KV where there is nothing better."""

from __future__ import annotations

import socket
import statistics
import threading
import time

from deploy.doctor.measured import Transfer

_PINGS = 50
_SLICE = 1 << 20
_LONGEST_S = 15.0
"""Without a byte from the other side."""


class Echo:
    """Answers one connection after the other: a byte with the same byte, a zero with a stream until the asker hangs up.

    Tells nothing and takes nothing but single bytes, and lives for seconds: it needs no key.
    """

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, name="doctor-echo", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with connection:
                connection.settimeout(_LONGEST_S)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    _answer(connection)
                except OSError:
                    continue  # the asker has what it wanted, or is gone

    def close(self) -> None:
        self._listener.close()


def _answer(connection: socket.socket) -> None:
    slice_ = bytes(_SLICE)
    while asked := connection.recv(1):
        if asked == b"\0":
            while True:
                connection.sendall(slice_)
        connection.sendall(asked)


def ask(host: str, port: int, limit_s: float = 0.5) -> tuple[float, Transfer]:
    """The median round trip in seconds, and what came within ``limit_s``. Raises OSError."""
    with socket.create_connection((host, port), timeout=_LONGEST_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trips = []
        for _ in range(_PINGS):
            began_s = time.monotonic()
            connection.sendall(b"\1")
            if not connection.recv(1):
                raise ConnectionResetError("the other side hung up")
            trips.append(time.monotonic() - began_s)
        connection.sendall(b"\0")
        room = bytearray(_SLICE)
        came, began_s = 0, time.monotonic()
        while (seconds := time.monotonic() - began_s) < limit_s:
            if not (size := connection.recv_into(room)):
                raise ConnectionResetError("the other side hung up")
            came += size
    return statistics.median(trips), Transfer(came, seconds)
