"""``baton up`` as a user runs it: a file, a command, real Ray, real vLLM engines on the CPU; and nothing left afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.cluster_process import BATON, serve_file
from tests.support.processes import ServerProcess, free_port, wait_until

START_LIMIT_S = 400.0
STOP_LIMIT_S = 90.0
MODEL = "demo"

ENGINE: Mapping[str, Any] = {
    "args": {"max_model_len": 4096, "enforce_eager": True, "dtype": "float32"},
    "env": {"OMP_NUM_THREADS": 1, "VLLM_CPU_KVCACHE_SPACE": 1},
}
"""As in deploy/config/cpu-demo.yaml."""

ARGS: Mapping[str, Any] = {
    "model": MODEL,
    "host": "127.0.0.1",
    "engine": ENGINE,
    "prefill": {"count": 1, "num_cpus": 0.5},
    "decode": {"count": 1, "num_cpus": 0.5},
    # Longer than any test: KV that nobody frees stays, and is found.
    "kv_transfer": {"lease_s": 600},
    "router": {
        "num_cpus": 0.5,
        "policy": "least_outstanding_tokens",
        "server_args": {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"},
    },
}
"""One prefill and one decode worker, which do every request together, whether or not one alone would be sooner done."""


@dataclass
class BatonServer:
    """A running Baton."""

    url: str
    process: ServerProcess
    args: Mapping[str, Any]
    """What it serves at present."""
    model: str = MODEL

    def get(self, path: str) -> Any:
        """One of Baton's own routes: ``/v1/baton/...``."""
        answer = httpx.get(f"{self.url}/v1/baton{path}", timeout=30.0)
        answer.raise_for_status()
        return answer.json()

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the controller knows of each worker, by role. For clusters with one worker per role."""
        return {worker["role"]: worker for worker in self.get("/status")["workers"] if worker["state"] == "ready"}

    def timelines(self, request_id: str) -> list[dict[str, Any]]:
        """What happened to a request, under the id its client knows."""
        timelines: list[dict[str, Any]] = self.get(f"/requests/{request_id}")["timelines"]
        return timelines

    def held(self) -> list[str]:
        """What any worker or the router still holds for anybody, in words; empty when all is free."""
        router = self.get("/workers")
        held = [f"the router has {router[what]} {what}" for what in ("requests", "outstanding_legs") if router[what]]
        for worker in [*self.get("/status")["workers"], *router["workers"]]:
            name, blocks = worker["worker"], worker["num_blocks"]
            if worker["free_blocks"] != blocks:
                held.append(f"{name} has {worker['free_blocks']} of {blocks} blocks free")
            held += [f"{name} has {worker[what]} {what}" for what in ("running", "waiting", "leased_blocks") if worker[what]]
        return held

    def deploy(self, args: Mapping[str, Any]) -> None:
        """Serves ``args`` from now on, with the workers it has where they are not concerned. Returns when all of it is up."""
        if args == self.args:
            return
        home, port = self.process.home, int(self.url.rpartition(":")[2])
        address = next(home.glob("baton-*/*/address")).read_text()
        env = {**self.process.env, "RAY_AUTH_MODE": "token"}  # a Ray that `baton up` has started wants a token
        command = [*BATON, "up", str(serve_file(home / "baton.yaml", port, args)), "--address", address]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=START_LIMIT_S, check=False)
        assert done.returncode == 0, done.stderr
        self.args = args


@contextlib.contextmanager
def baton_up(args: Mapping[str, Any] = ARGS) -> Iterator[BatonServer]:
    """Serves ``args``. On the way out: it ends when asked to, with status 0, and no process, socket or file is left of it."""
    home = Path(tempfile.mkdtemp(prefix="b-", dir="/tmp"))
    port = free_port()
    process = ServerProcess([*BATON, "up", str(serve_file(home / "baton.yaml", port, args))], home, env={})
    try:
        process.wait_ready(lambda: "serving " in process.output, START_LIMIT_S)
        yield BatonServer(f"http://127.0.0.1:{port}", process, args)
        assert process.terminate(STOP_LIMIT_S) == 0, process.output
        wait_until(lambda: not process.survivors(), 5.0, f"every process has ended; alive: {process.survivors()}")
        left = [str(path) for folder in (f"baton-{os.getuid()}", "baton") for path in (home / folder).rglob("*")]
        assert left == [], "left behind"
    finally:
        process.kill()
        shutil.rmtree(home, ignore_errors=True)
