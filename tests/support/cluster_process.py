"""``baton`` as a user types it: real Ray, simulated engines, in a home of its own; and what may be left of it afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.support.listening import listening, sockets_of
from tests.support.processes import ServerProcess, wait_until

MODEL = "demo"
"""The demo model's tokenizer and front half; its weights are never loaded."""
START_LIMIT_S = 180.0
STOP_LIMIT_S = 90.0
BATON = (sys.executable, "-m", "deploy.cli")


def simulated_args(prefill: int = 1, decode: int = 1, routers: int = 1, step_s: float = 0.01, **simulated: Any) -> dict[str, Any]:
    """``args`` of an application with simulated engines whose every step takes ``step_s``."""
    timing = {"type": "constant", "seconds": step_s}
    return {
        "model": MODEL,
        "host": "127.0.0.1",
        "engine": {
            "kind": "simulated",
            "args": {"max_model_len": 4096, "enforce_eager": True, "dtype": "float32"},
            # No special token is ever sampled: answers end at ``max_tokens``.
            "simulated": {"vocab_size": 4096, "special_token_ids": [0, 1, 2, 3], "timing": timing, **simulated},
        },
        "prefill": {"count": prefill, "num_cpus": 0.25},
        "decode": {"count": decode, "num_cpus": 0.25},
        # Longer than any test: KV that nobody frees stays, and is found.
        "kv_transfer": {"backend": "simulated", "lease_s": 600},
        # A policy that hands every request over: steps that all take as long are no reason to.
        "router": {"replicas": routers, "num_cpus": 0.25, "policy": "least_outstanding_tokens"},
    }


def serve_file(path: Path, port: int, args: Mapping[str, Any]) -> Path:
    """Writes a Serve config file and returns it."""
    application = {"name": "baton", "route_prefix": "/", "import_path": "deploy.app:build", "args": dict(args)}
    http = {"host": "127.0.0.1", "port": port}
    path.write_text(yaml.safe_dump({"proxy_location": "HeadOnly", "http_options": http, "applications": [application]}))
    return path


def port_outside_linux_own() -> int:
    """A port nobody listens on, below those (from 32768) that Linux gives to the many sockets of a starting cluster."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.randrange(10_000, 20_000)
            probe.bind(("127.0.0.1", port))
            return port


class Command(ServerProcess):
    """A ``baton`` command in the background."""

    def interrupt(self) -> None:
        """Ctrl-C: a terminal tells the whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self, limit_s: float) -> int:
        """Its exit status, once it has ended. Fails with the output when that takes longer."""
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {self.pid} has not ended in {limit_s:g} s:\n{self.output}") from None


class Home:
    """A private HOME and TMPDIR. Everything started from here, orphans included, is known by it.

    Short, and so not below pytest's: paths of sockets end after 107 characters.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="b-", dir="/tmp"))
        self.port = port_outside_linux_own()
        self.url = f"http://127.0.0.1:{self.port}"
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # where the demo model is, once it was built
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VLLM_", "BATON_"))}
        self.env = {**inherited, "HOME": str(self.path), "TMPDIR": str(self.path), "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"}
        self._server: Command | None = None

    def file(self, args: Mapping[str, Any]) -> Path:
        """A config file for ``args`` on this home's port."""
        return serve_file(self.path / "baton.yaml", self.port, args)

    def baton(self, *arguments: str | Path, limit_s: float = START_LIMIT_S) -> subprocess.CompletedProcess[str]:
        """One ``baton`` command, from start to end."""
        return self.run(*BATON, *arguments, limit_s=limit_s)

    def run(self, *arguments: str | Path, limit_s: float = START_LIMIT_S) -> subprocess.CompletedProcess[str]:
        """Any other command, from start to end."""
        command = [str(part) for part in arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=limit_s, check=False, stdin=subprocess.DEVNULL)

    def start(self, *arguments: str | Path) -> Command:
        """One ``baton`` command in the background, in a process group of its own."""
        return self.start_other(*BATON, *arguments)

    def start_other(self, *command: str | Path) -> Command:
        """Any other command in the background."""
        self._server = Command([str(part) for part in command], self.path, env=self.env)
        return self._server

    def up(self, args: Mapping[str, Any]) -> Command:
        """``baton up``; returns when it serves."""
        server = self.start("up", self.file(args))
        server.wait_ready(lambda: "serving " in server.output, START_LIMIT_S)
        return server

    def processes(self) -> list[psutil.Process]:
        """Every living process that was started from here."""
        return [process for process in psutil.process_iter() if _temp_dir(process) == str(self.path)]

    def titled(self, title: str) -> list[psutil.Process]:
        """Those whose title begins like this, e.g. ``ray::WorkerActor``."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
        return found

    def footprint(self) -> Footprint:
        """What processes started from here hold of the machine now."""
        listens: set[int] = set()
        shared: set[Path] = set()
        processes = self.processes()
        for process in processes:
            listens |= sockets_of(process.pid)
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                shared |= {Path(m.path) for m in process.memory_maps() if m.path.startswith("/dev/shm/") and "(deleted)" not in m.path}
        return Footprint(len(processes), listens & listening(), shared)

    def assert_nothing_left(self, of: Footprint, limit_s: float = 10.0, *, logs: bool = False) -> None:
        """No process, no listening socket, no shared memory, no file; with ``logs``, none but kept logs."""
        wait_until(lambda: not self.processes(), limit_s, f"every process has ended; alive: {_told(self.processes())}")
        assert not listening() & of.listening, "sockets that somebody still listens on"
        assert not [path for path in of.shared_memory if path.exists()], "shared memory that is still there"
        left = [path.name for folder in (f"baton-{os.getuid()}", "baton") for path in (self.path / folder).glob("*")]
        assert [name for name in left if not (logs and name.startswith("logs-"))] == [], "files that are still there"

    def close(self) -> None:
        """Ends whatever is left, at once, and removes the directory. For the way out, whatever happened."""
        if self._server is not None:
            self._server.kill()
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class Footprint:
    """What a running ``baton up`` holds of the machine."""

    processes: int
    listening: set[int]
    """As ``tests.support.listening`` knows them."""
    shared_memory: set[Path]


@dataclass(frozen=True)
class Cluster:
    """A running application with ``routers`` replicas, seen from outside."""

    home: Home
    url: str
    routers: int

    def status(self) -> dict[str, Any]:
        """What the controller knows. Raises httpx.HTTPStatusError when it does not answer."""
        return self._get("/status")

    def workers(self, role: str | None = None) -> dict[str, dict[str, Any]]:
        """The ready workers by name."""
        ready = [worker for worker in self.status()["workers"] if worker["state"] == "ready"]
        return {worker["worker"]: worker for worker in ready if role in (None, worker["role"])}

    def all_ready(self) -> bool:
        """Whether every pool has as many ready workers as are wanted, and every router reaches all of them."""
        try:
            status = self.status()
        except httpx.HTTPError:
            return False
        names = {worker["worker"] for worker in status["workers"] if worker["state"] == "ready"}
        return len(names) == sum(status["wanted"].values()) and all(
            {worker["worker"] for worker in seen["workers"]} == names for seen in self.from_each_router("/workers")
        )

    def timeline(self, request_id: str) -> list[dict[str, Any]]:
        """What happened to a request; any router can tell, once it has begun."""
        answers: list[list[dict[str, Any]]] = []

        def asked() -> bool:
            try:
                answers.append(self._get(f"/requests/{request_id}")["timelines"])
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.NOT_FOUND:
                    raise
            return bool(answers)

        wait_until(asked, 10.0, f"some router knows {request_id}")
        return answers[-1]

    def from_each_router(self, path: str) -> list[dict[str, Any]]:
        """The same question to every replica: each connection goes to whichever has the fewest."""
        answers: dict[str, dict[str, Any]] = {}

        def asked() -> bool:
            with contextlib.suppress(httpx.HTTPError):  # one that is not there (yet)
                answer = self._get(path)
                answers[answer["router"]] = answer
            return len(answers) >= self.routers

        wait_until(asked, 60.0, f"{self.routers} routers answer")
        return list(answers.values())

    def held(self) -> list[str]:
        """What any worker or router still holds for anybody, in words; empty when all is free."""
        routers = self.from_each_router("/workers")
        held = [f"{r['router']} has {r[what]} {what}" for r in routers for what in ("requests", "outstanding_legs") if r[what]]
        for worker in [*self.status()["workers"], *(worker for router in routers for worker in router["workers"])]:
            name, blocks = worker["worker"], worker["num_blocks"]
            if worker["free_blocks"] != blocks:
                held.append(f"{name} has {worker['free_blocks']} of {blocks} blocks free")
            held += [f"{name} has {worker[what]} {what}" for what in ("running", "waiting", "leased_blocks") if worker[what]]
        return held

    def _get(self, path: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/v1/baton{path}", timeout=30.0)
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        return told


@contextlib.contextmanager
def cluster_up(prefill: int, decode: int, routers: int, **simulated: Any) -> Iterator[Cluster]:
    """A cluster of simulated engines. On the way out: Ctrl-C ends it, with status 0, also when pressed again; nothing of it is left."""
    home = Home()
    try:
        server = home.up(simulated_args(prefill, decode, routers, **simulated))
        yield Cluster(home, home.url, routers)
        footprint = home.footprint()
        server.interrupt()
        eventually(lambda: "stopping" in server.output, 30.0, "it says that it is stopping")
        server.interrupt()
        eventually(lambda: "the application is gone" in server.output, 30.0, "the application is gone")
        server.interrupt()
        assert server.wait(STOP_LIMIT_S) == 0, server.output
        home.assert_nothing_left(footprint)
    finally:
        home.close()


@contextlib.contextmanager
def detached_up(args: Mapping[str, Any]) -> Iterator[Cluster]:
    """``up --detach`` returns when it serves; on the way out, ``down`` ends it and leaves nothing."""
    home = Home()
    try:
        up = home.baton("up", home.file(args), "--detach")
        assert up.returncode == 0, up.stderr
        assert "serving demo" in up.stderr
        assert httpx.get(f"{home.url}/v1/models").status_code == httpx.codes.OK
        yield Cluster(home, home.url, args["router"]["replicas"])
        footprint = home.footprint()
        down = home.baton("down")
        assert down.returncode == 0, down.stderr
        home.assert_nothing_left(footprint)
    finally:
        home.close()


def eventually(check: Callable[[], object], limit_s: float, what: str) -> None:
    """As ``wait_until``, with a limit for machines that do many things at once."""
    wait_until(check, 3 * limit_s, what)


def _temp_dir(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("TMPDIR") if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):  # gone meanwhile, or somebody else's
        return None


def _told(processes: list[psutil.Process]) -> list[str]:
    told = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            told.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
    return told
