"""What commands share that speak to the controller over Ray: which cluster is meant, the way there, and a first sign of life."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from core.application_config import model_app
from deploy.progress import Progress

POLL_S = 0.3
_BOARD_S = 15.0
"""For a first sign of the controller; a restarted one finds the workers before it posts anything."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How a cluster is named."""
    parser.add_argument("--address", help="a Ray cluster (auto, or host:port) instead of the running `baton up`")
    parser.add_argument("--app", help="the application's name (default: that of the running `baton up`, or baton)")
    parser.add_argument("--model", metavar="NAME", help="of several models in one application, this one")


def on_cluster(arguments: argparse.Namespace, act: Callable[[str, Progress], int]) -> int:
    """Does ``act`` with the application's name while connected to its Ray cluster; returns the exit status."""
    found = _cluster(arguments)
    if found is None:
        sys.stderr.write("nothing of yours is up on this machine; start it with `baton up FILE`, or name a Ray cluster: --address\n")
        return 1
    address, app = found[0], found[1] if arguments.model is None else model_app(found[1], arguments.model)
    from deploy import environment

    environment.prepare(on_one_machine=False)
    if not arguments.address:  # a Ray that `ray.init` has started wants a token, and whoever connects has to know that by itself
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    progress = Progress()
    progress.wait_for(f"connecting to Ray at {address}")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return act(app, progress)
    except (ConnectionError, RuntimeError) as error:
        progress.say(f"failed: {error}")
        return 1
    finally:
        progress.end()
        ray.shutdown()


def first_status(app: str, progress: Progress) -> dict[str, Any] | None:
    """What the controller has posted; None, and that is said, where there is none."""
    from cluster import board

    progress.wait_for(f"looking for {app}")
    deadline = time.monotonic() + _BOARD_S
    while (status := board.read(app)) is None:
        if time.monotonic() > deadline:
            models = board.models_of(app.partition(":")[0])
            among = f"its models are {', '.join(models)}: see --model" if models else "see --app"
            progress.say(f"failed: there is no application {app!r} on this cluster, or its controller has not started; {among}")
            return None
        time.sleep(POLL_S)
    return status


def _cluster(arguments: argparse.Namespace) -> tuple[str, str] | None:
    """The Ray cluster's address and the application's name."""
    if arguments.address:
        return arguments.address, arguments.app or "baton"
    from deploy import run_state
    from deploy.local_ray import address_of

    state = run_state.read()
    address = state and address_of(state.pid)
    return (address, arguments.app or state.app) if state and address else None
