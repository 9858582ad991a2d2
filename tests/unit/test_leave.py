"""`baton leave`: which processes are told to go, and what is said of those that stay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from deploy import cmd_leave

_OBEDIENT = "import sys, time; print(flush=True); time.sleep(600)"
_DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"


@contextmanager
def titled(title: str, code: str = _OBEDIENT) -> Iterator[psutil.Process]:
    """A process of this test's that is called that, and is ready to be told to go."""
    with subprocess.Popen([title, "-c", code], executable=sys.executable, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield psutil.Process(process.pid)
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("title", "is_one"),
    [
        ("ray::WorkerActor", True),
        ("ray::WorkerActor.beat", True),
        ("ray::WorkerActorOfSomebody", False),
        ("ray::ServeReplica:baton:Router", False),
        ("raylet", False),
    ],
)
def test_workers_are_known_by_their_title(title: str, is_one: bool) -> None:
    """Only a worker's own process is told, whatever method it is in; never Ray's, a router's, or another user's."""
    with titled(title) as process:
        assert cmd_leave.workers([process], os.getuid()) == ([process] if is_one else [])
        assert cmd_leave.workers([process], os.getuid() + 1) == []


def test_whoever_goes_is_waited_for() -> None:
    """With every worker gone there is nobody left to name."""
    with titled("ray::WorkerActor") as process:
        assert cmd_leave.leave([process], 60.0) == []
        assert not process.is_running()


def test_whoever_stays_is_named_and_told_once() -> None:
    """A worker that does not go in time is left running: the pod's end is not this command's to bring about."""
    with titled("ray::WorkerActor", _DEAF) as process:
        assert cmd_leave.leave([process], 0.1) == [process]
        assert process.is_running()


def test_a_process_that_is_gone_already_is_nobody() -> None:
    """Ended between the look and the word: not an error."""
    with titled("ray::WorkerActor") as process:
        process.kill()
        process.wait()
        assert cmd_leave.workers([process], os.getuid()) == []
        assert cmd_leave.leave([process], 60.0) == []
