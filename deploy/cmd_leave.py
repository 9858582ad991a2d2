"""``baton leave``: this machine is about to go. Its workers hand over what they run, and end; then it may. For a pod's preStop hook."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence

import psutil

EXAMPLES = """\
examples:
  baton leave --within 110      as a pod's preStop hook, with a terminationGracePeriodSeconds of more than that

Asks neither Ray nor a router, so it needs no address, no key, and no controller that is there.
"""
_WORKER = "ray::WorkerActor"
"""What Ray calls a worker's process, with ``.method`` behind it while one runs."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "leave",
        help="have every worker on this machine drain, and wait until they are gone",
        description="Sends SIGTERM to every worker of this user on this machine, which drains it, and waits. Exits with 1 if any is "
        "still there at the end. In a pod that is all there is; elsewhere `baton drain WORKER` may be what you want.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--within", type=float, default=110.0, metavar="SECONDS", help="the longest it may take (default: %(default)g)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    going = workers(psutil.process_iter(), os.getuid())
    print(f"draining {len(going)} workers", flush=True)
    left = leave(going, arguments.within)
    for process in left:
        print(f"process {process.pid} is still there", file=sys.stderr)
    return 1 if left else 0


def workers(processes: Iterable[psutil.Process], uid: int) -> list[psutil.Process]:
    """Those that are a worker of this user's."""
    return [process for process in processes if _is_worker(process, uid)]


def leave(going: Sequence[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Blocks until all are gone or the time is up; returns who is left. Each is told once: a second SIGTERM would end it at once."""
    for process in going:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            pass  # gone meanwhile, which is what was wanted
    _, left = psutil.wait_procs(going, timeout=within_s)
    return list(left)


def _is_worker(process: psutil.Process, uid: int) -> bool:
    try:
        title = process.cmdline()[:1]
        return bool(title) and title[0].partition(".")[0] == _WORKER and process.uids().real == uid
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
