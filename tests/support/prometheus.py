"""Debian's Prometheus, as deploy/test_tools.sh fetches it or as it is installed: the server and ``promtool``."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.processes import ServerProcess, free_port

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / "build" / "tools" / "usr" / "bin"
START_LIMIT_S = 30.0


def tool(name: str) -> str:
    """Path of ``prometheus`` or ``promtool``. Skips the test where there is none."""
    found = str(FETCHED / name) if (FETCHED / name).exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: run `make test`, which fetches it on Debian and Ubuntu, or install Prometheus")
    return found


def promtool(*arguments: str | Path) -> str:
    """What it says. Fails with that where it finds fault."""
    done = subprocess.run([tool("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=60.0, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


class Prometheus:
    """A running server, asked by its HTTP API."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    @property
    def url(self) -> str:
        """Where it is asked."""
        return str(self._client.base_url)

    def get(self, path: str, **parameters: str | float) -> Any:
        """``data`` of ``/api/v1/PATH``. Fails with Prometheus' own words where it refuses the question."""
        told = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert told["status"] == "success", (parameters, told)
        return told["data"]

    def now(self, query: str) -> list[dict[str, Any]]:
        """Series with the value each has now."""
        found: list[dict[str, Any]] = self.get("query", query=query)["result"]
        return found

    def between(self, query: str, begin_s: float, end_s: float) -> list[dict[str, Any]]:
        """Series with their values at every second, as a graph would have them."""
        found: list[dict[str, Any]] = self.get("query_range", query=query, start=begin_s, end=end_s, step=1)["result"]
        return found

    def targets_up(self) -> set[str]:
        """``instance`` of all that it found and could scrape."""
        return {target["labels"]["instance"] for target in self.get("targets")["activeTargets"] if target["health"] == "up"}


@contextlib.contextmanager
def prometheus(config: Mapping[str, Any], port: int | None = None, *flags: str) -> Iterator[Prometheus]:
    """Runs one with this configuration, its data and nothing else in a directory of its own. ``flags`` are further ones."""
    program = tool("prometheus")
    home = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
    (home / "prometheus.yml").write_text(yaml.safe_dump(dict(config)))
    address = f"127.0.0.1:{port or free_port()}"
    process = ServerProcess(
        [
            program,
            f"--config.file={home / 'prometheus.yml'}",
            f"--storage.tsdb.path={home / 'data'}",
            f"--web.listen-address={address}",
            *flags,
        ],
        home,
        env={},
    )
    try:
        process.wait_ready(lambda: "Server is ready" in process.output, START_LIMIT_S)
        with httpx.Client(base_url=f"http://{address}", timeout=30.0) as client:
            yield Prometheus(client)
        assert process.terminate(START_LIMIT_S) == 0, process.output
    finally:
        process.kill()
        shutil.rmtree(home, ignore_errors=True)
