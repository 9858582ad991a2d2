"""``baton down``: ends what ``baton up`` started, and says when nothing is left of it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from deploy.progress import Progress

EXAMPLES = """\
examples:
  baton down                                  the one that runs on this machine
  baton down --address auto --app baton       the application on the Ray cluster this node belongs to
"""
_LIMIT_S = 90.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "down",
        help="end what `baton up` started",
        description="Ends the running application, its workers and, if `baton up` started it, Ray. Nothing is left behind.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--address", help="a Ray cluster that `baton up --address` was used on")
    parser.add_argument("--app", default="baton", help="the application's name there (default: baton)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.address:
        return _on_cluster(arguments.address, arguments.app)
    from deploy import run_state

    state = run_state.read()
    if state is None:
        print("nothing of yours is up on this machine", file=sys.stderr)
        return 0
    progress = Progress()
    progress.wait_for(f"ending process {state.pid}")
    os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + _LIMIT_S
    while state.is_running and time.monotonic() < deadline:
        time.sleep(0.1)
    progress.end()
    if state.is_running:
        progress.say(f"process {state.pid} has not ended in {_LIMIT_S:.0f} s; it is still at it, or stuck: kill -9 {state.pid}")
        return 1
    run_state.log_file().unlink(missing_ok=True)  # of an `up --detach`; it ended well and on purpose, so nobody will ask
    progress.say("down")
    return 0


def _on_cluster(address: str, app: str) -> int:
    from deploy import environment

    environment.prepare(on_one_machine=False)
    import ray
    from ray import serve

    progress = Progress()
    progress.wait_for(f"deleting {app}")
    try:
        ray.init(address=address, log_to_driver=False)
        if app not in serve.status().applications:
            progress.say(f"there is no application {app!r} on {address}")
            return 1
        serve.delete(app, _blocking=False)
        deadline = time.monotonic() + _LIMIT_S
        while app in serve.status().applications and time.monotonic() < deadline:
            time.sleep(0.3)
        if app in serve.status().applications:
            progress.say(f"{app} takes no more requests; it ends by itself when its open streams have, see `serve status`")
            return 0
    except (ConnectionError, RuntimeError) as error:
        progress.say(f"failed: {error}")
        return 1
    finally:
        progress.end()
    progress.say(f"{app} is gone")
    return 0
