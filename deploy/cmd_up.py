"""``baton up FILE``: a Ray cluster on this machine and the application of FILE on it, until Ctrl-C. Or on a cluster that runs."""

from __future__ import annotations

import argparse
import asyncio
import signal
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
    ray = LocalRay(_cpus(file))
    status = 1
    try:
        status = asyncio.run(_serve(file, name, then, progress, ray))
    except (DeployError, RuntimeError, OSError) as error:
        progress.say(f"failed: {error}")
        progress.say(f"logs: {_keep_logs(ray)}")
    finally:
        progress.wait_for("stopping Ray")
        ray.stop()
        run_state.clear()
        progress.say("everything has ended")
        progress.end()
    return status


async def _serve(
    file: ServeFile, name: str, then: Callable[[Deployment, asyncio.Event], Awaitable[int]], progress: Progress, ray: object
) -> int:
    from deploy import run_state
    from deploy.application import Deployment
    from deploy.local_ray import LocalRay

    assert isinstance(ray, LocalRay)
    stop = asyncio.Event()
    progress.wait_for("starting Ray")
    await asyncio.to_thread(ray.start)
    # Only now: Ray puts a handler of its own in the place of any that was there, and it aborts the process.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    progress.say("Ray is up")
    url = f"http://{file.http_host}:{file.http_port}{file.route_prefix.rstrip('/')}"
    run_state.write(url, file.application, name)
    deployment = Deployment(file, progress)
    coming_up = asyncio.ensure_future(deployment.up())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({coming_up, stopped}, return_when=asyncio.FIRST_COMPLETED)
    status = 130
    try:
        if coming_up.done():
            coming_up.result()
            progress.wait_for("")
            progress.say(f"serving {file.config.served_name} at {url}/v1")
            status = await then(deployment, stop)
        else:
            coming_up.cancel()
    finally:
        stopped.cancel()
        progress.say("stopping")
        progress.wait_for("draining the router, ending the workers")
        await asyncio.to_thread(deployment.down)
    return status


def _cpus(file: ServeFile) -> float:
    config = file.config
    return (
        config.prefill.count * config.prefill.num_cpus
        + config.decode.count * config.decode.num_cpus
        + (config.router.replicas * config.router.num_cpus)
    )


def _keep_logs(ray: object) -> str:
    """Ray's logs vanish with it; a copy stays where an error is to be looked for."""
    import shutil

    from deploy import run_state
    from deploy.local_ray import LocalRay

    assert isinstance(ray, LocalRay)
    if ray.log_dir is None or not ray.log_dir.exists():
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
    progress.say(f"serving {file.config.served_name}; take it away with: baton down --address {address} --app {file.application}")
    return 0


def _detached(path: Path) -> int:
    from deploy import run_state

    log = run_state.run_dir() / "up.log"
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
