"""One Baton application on the Ray cluster this process is connected to: deploy, watch it come up, take it away."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

from cluster import board
from core.config import BatonConfig
from core.errors import BatonError
from core.worker import Role
from deploy.check_config import ServeFile
from deploy.progress import Progress

_POLL_S = 0.3
_SERVE_OPTIONS = ("proxy_location", "grpc_options", "logging_config")
"""Keys of a Serve config file, beside ``http_options``, that are options of Serve itself."""
_DEPLOYING_ENDS_S = 10.0
_STREAMS_END_S = 20.0
"""On the way down. A router may take ``router.drain_timeout_s`` when it is replaced, but nobody waits ten minutes for Ctrl-C."""
_LONGEST_REASON = 12
"""Lines."""
_FAILED_STARTS = 2
"""Once may be bad luck, a port taken in the meantime; twice is the configuration."""


class DeployError(BatonError):
    """The application did not come up; the text says what is known and where to look."""


class Deployment:
    """``file`` is what to run."""

    def __init__(self, file: ServeFile, progress: Progress) -> None:
        self._file = file
        self._progress = progress
        self._deploying: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._ending = False

    async def up(self) -> None:
        """Deploys and returns when the routers and every worker are ready. Raises DeployError."""
        if beyond := _beyond(self._file):
            raise DeployError(f"`baton up` cannot do {beyond}; `serve deploy` can, on a cluster that runs")
        self._progress.wait_for("starting the controller and the router")
        self._deploying = threading.Thread(target=self._deploy, name="serve-run", daemon=True)
        self._deploying.start()
        seen: dict[str, str] = {}
        while not self._is_ready(seen):  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(_POLL_S)

    def _deploy(self) -> None:
        """Until the routers serve; on a thread, so that workers can be watched meanwhile."""
        from ray import serve
        from ray.serve.context import _get_global_client

        from deploy.app import build

        # Serve tells on stderr what it does, in its own words and at its own length; Progress tells it shorter.
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            options = dict(self._file.raw.get("http_options") or {})
            given = {name: self._file.raw[name] for name in _SERVE_OPTIONS if name in self._file.raw}
            serve.start(http_options={"host": self._file.http_host, "port": self._file.http_port, **options}, **given)
            application = build(self._file.served.source.model_dump(mode="json"))
            target = serve.RunTarget(application, self._file.application, self._file.route_prefix)
            if not self._ending:
                serve.run_many([target], wait_for_applications_running=False)
            # Not Serve's own waiting: that goes on when the application has been deleted, and starts a new Ray when this one has ended.
            while not self._ending and not self._is_running():
                time.sleep(_POLL_S)
            if not self._ending:
                _get_global_client().wait_for_proxies_serving()
        except BaseException as error:  # SystemExit too: vLLM's argument parser ends that way
            self._failure = error

    def _is_running(self) -> bool:
        from ray import serve

        status = serve.status().applications.get(self._file.application)
        if status is not None and status.status == "DEPLOY_FAILED":
            raise DeployError(status.message)
        return status is not None and status.status == "RUNNING"

    def _is_ready(self, seen: dict[str, str]) -> bool:
        if self._failure is not None:
            raise DeployError(f"the application did not start: {_why(self._failure)}") from self._failure
        served = self._file.served
        found = [(config, board.read(served.name_of(config, self._file.application))) for config in served.models]
        statuses = [(config, status) for config, status in found if status is not None]
        for config, status in statuses:
            self._give_up_on_failures(config, status)
            for worker in status["workers"]:
                self._report(worker, seen, f" of {config.served_name}" if len(served.models) > 1 else "")
        if len(statuses) < len(served.models):
            return False
        workers = [worker for _, status in statuses for worker in status["workers"]]
        waited_for = [w["worker"] for w in workers if w["state"] not in {"ready", "sleeping"}]
        assert self._deploying is not None
        if self._deploying.is_alive():
            waited_for.append("router")
        elif seen.setdefault("router", "ready") != "said":
            seen["router"] = "said"
            self._progress.say(f"{'router':<16} ready at http://{self._file.http_host}:{self._file.http_port}{self._file.route_prefix}")
        self._progress.wait_for("waiting for " + ", ".join(waited_for) if waited_for else "")
        return not waited_for and all(_complete(config, status) for config, status in statuses)

    def _give_up_on_failures(self, config: BatonConfig, status: dict[str, Any]) -> None:
        """A worker that never started will not do so the next time either; the controller would try for ever."""
        never_ready = [failure for failure in status["failures"] if not failure["was_ready"]]
        if len(never_ready) >= _FAILED_STARTS:
            raise DeployError(f"{never_ready[-1]['worker']} could not start with the model {config.model}: {never_ready[-1]['reason']}")

    def _report(self, worker: dict[str, Any], seen: dict[str, str], of: str) -> None:
        name, phase = worker["worker"], worker["phase"]
        if seen.get(name) == phase:
            return
        seen[name] = phase
        if worker["state"] == "gone":
            self._progress.say(f"{name:<16} is gone: {phase}")
        elif worker["state"] == "ready":
            self._progress.say(f"{name:<16} ready after {worker['ready_after_s']:.1f} s, {worker['num_blocks']} KV blocks{of}")
        else:
            self._progress.say(f"{name:<16} {phase}{of}")

    def down(self) -> None:
        """Deletes the application; its controller ends the workers. Blocks until that is done, or has taken too long."""
        from ray import serve

        self._ending = True
        try:
            serve.delete(self._file.application, _blocking=False)
            deadline = time.monotonic() + _STREAMS_END_S
            while (still := self._file.application in serve.status().applications) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        except Exception as error:  # Ray's trees of errors have no common root; whatever it was, Ray itself is ended next
            self._progress.say(f"the application could not be deleted: {_why(error)}")
        else:
            self._progress.say("streams that were still open are cut" if still else "the application is gone")
        if self._deploying is not None:
            self._deploying.join(_DEPLOYING_ENDS_S)  # or it would go on asking a Ray that has been shut down


def _complete(config: BatonConfig, status: dict[str, Any]) -> bool:
    """Whether all are ready that are wanted. A scaled pool has the number that scaling has made of it, perhaps before this `up`."""
    wanted: int = sum(status["wanted"].values()) if config.autoscaling.enabled else sum(config.pool(role).count for role in Role)
    ready: int = sum(worker["state"] == "ready" for worker in status["workers"])
    return ready >= wanted


def _why(error: BaseException) -> str:
    """What an error says, without the traceback that Serve puts in front of it."""
    lines = str(error).strip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.lstrip().startswith('File "')]
    said = lines[frames[-1] + 2 :] if frames else lines  # behind the last frame and its line of code
    return "\n".join(said[-_LONGEST_REASON:]) or type(error).__name__


def _beyond(file: ServeFile) -> str | None:
    """What a file asks of Serve that ``up`` would leave out without a word, or None."""
    applications = file.raw["applications"]
    if len(applications) > 1:
        return "more than one application"
    keys = sorted(set(applications[0]) - {"name", "route_prefix", "import_path", "args"})
    return f"`{'`, `'.join(keys)}` of an application" if keys else None
