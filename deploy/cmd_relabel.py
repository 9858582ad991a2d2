"""``baton relabel WORKER ROLE``: makes a worker one of the other pool, without a restart."""

from __future__ import annotations

import argparse
import time

from core.ids import WorkerId
from core.worker import Role
from deploy.on_ray import add_arguments, first_status, on_cluster
from deploy.progress import Progress

EXAMPLES = """\
examples:
  baton relabel prefill-0b11d0 decode                    this prefill worker decodes from now on
  baton relabel prefill-0b11d0 decode --address auto     on the Ray cluster this node belongs to

With several models, `--model NAME` says whose worker it is.
`baton status` lists the workers and their roles; a name keeps the role that its worker was made with. See docs/relabelling.md.
"""
_POLL_S = 0.05
_ANSWERS_WITHIN_S = 30.0
"""The controller looks twice a second, and asks a worker that does not answer for ten seconds."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "relabel",
        help="move a worker to the other pool, without a restart",
        description="Asks the controller to give a ready worker another role. What the worker runs ends where it is; its pool is to have "
        "one worker less from then on, and the other one more.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("worker", metavar="WORKER", help="a worker's name, as in `baton status`")
    parser.add_argument("role", choices=[str(role) for role in Role], help="the role it is to have")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return on_cluster(arguments, lambda app, progress: _relabel(app, WorkerId(arguments.worker), Role(arguments.role), progress))


def _relabel(app: str, worker: WorkerId, role: Role, progress: Progress) -> int:
    from cluster import board

    if first_status(app, progress) is None:
        return 1
    progress.wait_for("waiting for the controller")
    board.ask_for_role(app, worker, str(role))
    deadline = time.monotonic() + _ANSWERS_WITHIN_S
    while (why_not := board.role_answer(app, worker)) is None:
        if time.monotonic() > deadline:
            progress.say("failed: the controller does not answer; it will do it when it is back, unless you ask for the other role")
            return 1
        time.sleep(_POLL_S)
    progress.say(f"failed: {why_not}" if why_not else f"done: {worker} is a {role} worker")
    return 1 if why_not else 0
