"""A Ray cluster on several machines, each a network namespace: every process has to find the others by their machines' addresses."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.machines import Machine, Machines, machines
from tests.support.processes import wait_until

ROOT = Path(__file__).parents[2]
NODE_UP_S = 120.0
HTTP_PORT = 8000
_RAY_PORT = 6379
_QUICK_DEATH = {
    # Ray takes a minute to be sure that a silent machine is dead. That is its business, and not what is tested.
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
BY_NETWORK = {"UCX_TLS": "tcp", "UCX_NET_DEVICES": "eth0"}
"""By memory, which these machines have in common for being one, UCX would be there before the first packet."""


class NetNodes:
    """The first machine added is the head."""

    def __init__(self, on: Machines) -> None:
        self._machines = on
        self.path = Path(tempfile.mkdtemp(prefix="b-", dir="/tmp"))
        self.nodes: dict[str, Machine] = {}
        self._rays: list[subprocess.Popen[bytes]] = []
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # where the demo model is, once it was built
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VLLM_", "BATON_"))}
        own = {"HOME": str(self.path), "TMPDIR": str(self.path), "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        self.env = {**inherited, **own, **BY_NETWORK, **_QUICK_DEATH}

    @property
    def head(self) -> Machine:
        return next(iter(self.nodes.values()))

    @property
    def url(self) -> str:
        """Where routers answer."""
        return f"http://{self.head.address}:{HTTP_PORT}"

    @property
    def ray_address(self) -> str:
        return f"{self.head.address}:{_RAY_PORT}"

    @property
    def file(self) -> Path:
        """The configuration that is served, or will be."""
        return self.path / "baton.yaml"

    def add(self, name: str, cpus: int = 0, resources: Mapping[str, float] | None = None) -> Machine:
        """A machine more, with a Ray node that has joined the cluster; the first starts it."""
        machine = self._machines.add(name)
        joins = f"--address={self.ray_address}" if self.nodes else f"--head --port={_RAY_PORT} --include-dashboard=false"
        given = f"--num-cpus={cpus} --resources={shlex.quote(json.dumps(dict(resources or {})))}"
        # As docs/deploying.md has it.
        baton, ray = (shlex.join([sys.executable, "-m", module]) for module in ("deploy.cli", "ray.scripts.scripts"))
        line = f'eval "$({baton} env)" && exec {ray} start {joins} {given} --disable-usage-stats --block'
        said = self.path / f"{name}.log"
        with said.open("w") as log:
            command = [*machine.inside, "bash", "-c", line]
            started = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.env, cwd=ROOT, start_new_session=True
            )
        self.nodes[name] = machine
        self._rays.append(started)

        def joined() -> bool:
            assert started.poll() is None, f"{name} has ended:\n{said.read_text(errors='replace')}"
            return "runtime started" in said.read_text(errors="replace")

        wait_until(joined, NODE_UP_S, f"{name} has joined")
        return machine

    def baton(self, *arguments: str, limit_s: float) -> subprocess.CompletedProcess[str]:
        """A ``baton`` command on the head."""
        command = [*self.head.inside, sys.executable, "-m", "deploy.cli", *arguments]
        return subprocess.run(command, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False)

    def up(self, args: Mapping[str, Any], limit_s: float = 400.0) -> None:
        """Serves ``args`` from the head, and returns when every worker is ready."""
        application = {"name": "baton", "route_prefix": "/", "import_path": "deploy.app:build", "args": dict(args)}
        http = {"host": "0.0.0.0", "port": HTTP_PORT}
        self.file.write_text(yaml.safe_dump({"proxy_location": "HeadOnly", "http_options": http, "applications": [application]}))
        up = self.baton("up", str(self.file), "--address", self.ray_address, limit_s=limit_s)
        assert up.returncode == 0, up.stderr

    def close(self) -> None:
        """Every process has ended and is buried, and every file is gone."""
        for machine in self.nodes.values():
            machine.end()
        for ray in self._rays:
            ray.wait()
        shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def net_nodes() -> Iterator[NetNodes]:
    """No machine yet. On the way out, also of a failed test, nothing of it is left."""
    with machines() as on:
        nodes = NetNodes(on)
        try:
            yield nodes
        finally:
            nodes.close()
