"""Whether what a stopped cluster leaves listening would be seen."""

from __future__ import annotations

import os
import socket

from tests.support.listening import listening, sockets_of


def test_a_socket_is_seen_while_it_listens() -> None:
    """Until it is closed, and no other one for it that takes its port."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        ours = listening() & sockets_of(os.getpid())
        assert os.fstat(one.fileno()).st_ino in ours
    with socket.create_server(("127.0.0.1", port)) as other:
        assert os.fstat(other.fileno()).st_ino not in ours
        assert not listening() & ours


def test_one_that_does_not_listen_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert os.fstat(client.fileno()).st_ino in sockets_of(os.getpid()) - listening()


def test_a_process_that_has_ended_has_none() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert sockets_of(pid) == set()
