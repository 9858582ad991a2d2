"""``baton drain WORKER``: takes workers out of service without a client noticing, and waits until others have their places."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from core.ids import WorkerId
from deploy.on_ray import POLL_S, add_arguments, first_status, on_cluster
from deploy.progress import Progress

EXAMPLES = """\
examples:
  baton drain decode-3f9a2c                              this worker goes, a new one takes its place
  baton drain prefill-0b11d0 decode-3f9a2c               both at once
  baton drain --all                                      every worker, one after the other: a rolling restart
  baton drain --all --address auto --app baton           on the Ray cluster this node belongs to

With several models, `--model NAME` says whose worker it is.
`baton status` lists the workers. Running requests have the pool's `drain_timeout_s` to finish; the rest is continued by other workers.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "drain",
        help="replace workers without losing a request",
        description="Asks the controller to drain workers, and waits until each is gone and every pool is complete again. "
        "Ctrl-C stops the waiting, not the drain that has begun.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workers", nargs="*", metavar="WORKER", help="a worker's name, as in `baton status`")
    parser.add_argument("--all", action="store_true", help="every worker, the next only when all are ready again")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if bool(arguments.workers) == arguments.all:
        print("name the workers to drain, or say --all; `baton status` lists them", file=sys.stderr)
        return 2
    return on_cluster(arguments, lambda app, progress: _drain(app, [WorkerId(name) for name in arguments.workers], progress))


def _drain(app: str, names: list[WorkerId], progress: Progress) -> int:
    """``names`` at once, or, where none are given, every worker one after the other."""
    status = first_status(app, progress)
    if status is None:
        return 1
    known = [WorkerId(worker["worker"]) for worker in status["workers"] if worker["state"] != "gone"]
    if unknown := [name for name in names if name not in known]:
        progress.say(f"failed: there is no worker {', '.join(unknown)}; there are {', '.join(known) or 'none'}")
        return 1
    rounds = [names] if names else [[worker] for worker in known]
    for number, workers in enumerate(rounds, start=1):
        if len(rounds) > 1 and (status := _settled(app, progress)) is None:
            return 1
        if not names and workers[0] not in {worker["worker"] for worker in (status or {})["workers"]}:
            continue  # it died meanwhile, and was replaced
        if len(rounds) > 1:
            progress.say(f"{number} of {len(rounds)}")
        if not _replaced(app, workers, progress):
            return 1
    progress.say("done: every worker is ready")
    return 0


def _replaced(app: str, workers: list[WorkerId], progress: Progress) -> bool:
    """Asks for the drain of these workers and follows it to its end. False: the application went away meanwhile."""
    from cluster import board

    for worker in workers:
        board.ask_to_drain(app, worker)
        progress.say(f"{worker:<16} is asked to drain")
    return _settled(app, progress, without=set(workers)) is not None


def _settled(app: str, progress: Progress, without: set[WorkerId] | None = None) -> dict[str, Any] | None:
    """Waits until all pools are complete, ``without`` these workers; returns that status. None: the application has gone."""
    from cluster import board

    going, said = set(without or ()), dict[str, str]()
    while (status := board.read(app)) is not None:
        there = {worker["worker"]: worker for worker in status["workers"]}
        for name in sorted(going):
            worker = there.get(name)
            if worker is None or worker["state"] == "gone":
                going.discard(name)
                progress.say(f"{name:<16} is gone: {_why(status, name)}")
        for name, worker in there.items():
            if worker["state"] != "gone" and said.get(name) != worker["phase"] and (name in said or worker["phase"] != "ready"):
                progress.say(f"{name:<16} {worker['phase']}")
            said[name] = worker["phase"]
        if not going and _complete(status):
            return status
        progress.wait_for(_waiting(there, going))
        time.sleep(POLL_S)
    progress.say(f"failed: {app} has been taken down")
    return None


def _complete(status: dict[str, Any]) -> bool:
    states = [(worker["role"], worker["state"]) for worker in status["workers"] if worker["state"] != "sleeping"]
    exact = all(states.count((role, "ready")) == count for role, count in status["wanted"].items())
    return exact and all(state == "ready" for _, state in states)


def _why(status: dict[str, Any], worker: str) -> str:
    """How it ended; only what went wrong is kept."""
    return next((str(failure["reason"]) for failure in reversed(status["failures"]) if failure["worker"] == worker), "drained")


def _waiting(there: dict[str, dict[str, Any]], going: set[WorkerId]) -> str:
    left = [
        f"{name} ({there[name]['running'] + there[name]['waiting']} requests, {there[name]['leased_blocks']} kept blocks)"
        for name in sorted(going)
        if name in there
    ]
    coming = [name for name, worker in there.items() if worker["state"] == "starting"]
    return "waiting for " + ", ".join(left + coming) if left or coming else "waiting for the controller"
