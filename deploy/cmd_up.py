"""``baton up FILE``: a Ray cluster on this machine and the application of FILE on it, until Ctrl-C. Or on a cluster that runs."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.progress import Progress

if TYPE_CHECKING:
    from deploy.application import Deployment
    from deploy.check_config import ServeFile
    from deploy.local_ray import LocalRay

EXAMPLES = """\
examples:
  baton up deploy/config/cpu-demo.yaml              here, until Ctrl-C
  baton up deploy/config/cpu-demo.yaml --detach     here, in the background; `baton down` ends it
  baton up my.yaml --address auto                   on the Ray cluster this node belongs to, as `serve deploy my.yaml` does
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "up",
        help="serve what a config file asks for",
        description="Checks a config file, starts everything in it, and says for each worker what it is at.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the YAML file")
    parser.add_argument("--detach", action="store_true", help="return when it serves; it goes on in the background")
    parser.add_argument("--address", help="a running Ray cluster (auto, or host:port) instead of one for this machine only")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from core.errors import ConfigError
    from deploy import run_state
    from deploy.check_config import read

    try:
        file = read(arguments.file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.address:
        return _on_cluster(file, arguments.address)
    if running := run_state.read():
        print(f"baton is up already (process {running.pid}, {running.file}, {running.url}); end it with: baton down", file=sys.stderr)
        return 1
    if arguments.detach:
        return _detached(arguments.file)
    return serve_here(file, str(arguments.file), _until_stopped)


async def _until_stopped(deployment: Deployment, stop: asyncio.Event) -> int:
    await stop.wait()
    return 0


def serve_here(file: ServeFile, name: str, then: Callable[[Deployment, asyncio.Event], Awaitable[int]]) -> int:
    """Brings everything up, runs ``then``, takes everything down. ``then``'s event is set by Ctrl-C and SIGTERM.

    Exit status: ``then``'s, or 1 when it did not come up. A second Ctrl-C does not cut the shutdown short: that would leave
    processes behind.
    """
    from deploy import run_state
    from deploy.application import DeployError
    from deploy.local_ray import LocalRay

    progress = Progress()
    problems = (_model_problem(config.model) for config in file.served.models)
    if problem := next(filter(None, problems), None) or _port_problem(file.http_host, file.http_port):
        progress.say(f"failed: {problem}")
        return 1
    ray = LocalRay(_cpus(file))
    status, ended = 1, False
    try:
        run_state.write(_url(file), file.application, name)
        progress.wait_for("starting Ray")
        ray.start()
        progress.say("Ray is up")
        status = asyncio.run(_serve(file, then, progress))
    except (DeployError, RuntimeError, OSError) as error:
        progress.say(f"failed: {error}")
        progress.say(f"logs: {_keep_logs(ray)}")
    except KeyboardInterrupt:
        status = 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _not_now)
        progress.wait_for("stopping Ray")
        ended = ray.stop()
        run_state.forget(os.getpid())
        progress.say("everything has ended" if ended else "some of Ray's processes would not end")
        progress.end()
    return status if ended else 1


def _not_now(number: int, frame: object) -> None:
    """Takes the place of Python's handlers while everything ends."""


async def _serve(file: ServeFile, then: Callable[[Deployment, asyncio.Event], Awaitable[int]], progress: Progress) -> int:
    from deploy.application import Deployment

    stop = asyncio.Event()
    # Not before Ray is up: it puts handlers of its own in the place of any that were there.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    deployment = Deployment(file, progress)
    coming_up = asyncio.ensure_future(deployment.up())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({coming_up, stopped}, return_when=asyncio.FIRST_COMPLETED)
    status = 130
    try:
        if coming_up.done():
            coming_up.result()
            progress.wait_for("")
            progress.say(f"serving {_names(file)} at {_url(file)}/v1")
            status = await then(deployment, stop)
        else:
            coming_up.cancel()
    finally:
        stopped.cancel()
        progress.say("stopping")
        progress.wait_for("draining the router, ending the workers")
        await asyncio.to_thread(deployment.down)
    return status


def _url(file: ServeFile) -> str:
    return f"http://{file.http_host}:{file.http_port}{file.route_prefix.rstrip('/')}"


def _model_problem(model: str) -> str | None:
    """What can be seen without asking a hub: every worker would find it out half a minute later, and say it less well."""
    looks_like_path = model.startswith(("/", "./", "../", "~"))
    return (
        f"there is no model directory {model}; `model` is a directory, a hub name, or demo"
        if looks_like_path and not Path(model).is_dir()
        else None
    )


def _port_problem(host: str, port: int) -> str | None:
    """Why nobody could listen there. Asked first: Ray finds out only after everything else has been started, and does not say so."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have just ended do not count
        try:
            probe.bind(address)
        except OSError as error:
            return f"cannot listen at {host}:{port}: {error.strerror}; set another `http_options.port`, or end what is there"
    return None


def _cpus(file: ServeFile) -> float:
    pools = [pool for config in file.served.models for pool in (config.prefill, config.decode)]
    router = file.config.router
    return sum(pool.count * pool.num_cpus for pool in pools) + router.replicas * router.num_cpus


def _names(file: ServeFile) -> str:
    return ", ".join(config.served_name for config in file.served.models)


def _keep_logs(ray: LocalRay) -> str:
    """Ray's logs vanish with it; a copy stays where an error is to be looked for."""
    import shutil

    from deploy import run_state

    if not ray.log_dir.exists():
        return "none were written"
    kept = run_state.run_dir() / time.strftime("logs-%Y%m%d-%H%M%S")
    shutil.copytree(ray.log_dir, kept, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    return str(kept)


def _on_cluster(file: ServeFile, address: str) -> int:
    from deploy import environment

    environment.prepare(on_one_machine=False)
    import ray

    from deploy.application import DeployError, Deployment

    progress = Progress()
    progress.wait_for(f"connecting to Ray at {address}")
    try:
        ray.init(address=address, log_to_driver=False)
        asyncio.run(Deployment(file, progress).up())
    except (DeployError, ConnectionError, RuntimeError) as error:
        progress.say(f"failed: {error}")
        return 1
    finally:
        progress.end()
    progress.say(f"serving {_names(file)}; take it away with: baton down --address {address} --app {file.application}")
    return 0


def _detached(path: Path) -> int:
    from deploy import run_state

    log = run_state.log_file()
    command = [sys.executable, "-m", "deploy.cli", "up", str(path)]
    with log.open("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)
    shown = 0
    while True:
        text = log.read_text()
        sys.stderr.write(text[shown:])
        shown = len(text)
        if "serving " in text:
            print(f"in the background as process {process.pid}, log {log}; end it with: baton down", file=sys.stderr)
            return 0
        if process.poll() is not None:
            return process.returncode or 1
        time.sleep(0.2)
