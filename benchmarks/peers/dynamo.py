"""NVIDIA Dynamo with simulated workers, in an environment of its own: frontend with KV router, mockers for both pools."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.fleet import Fleet
from benchmarks.servers import free_port

VERSION = "1.4.2"
_START_S = 120.0
_STOP_S = 20.0


def environment(cache: Path, python: str) -> Path:
    """The Python of a virtual environment with Dynamo, made if it is not there. Raises CalledProcessError when pip cannot have it."""
    home = cache.absolute() / f"ai-dynamo-{VERSION}"
    executable = home / "bin" / "python"
    ready = home / "ready"
    if not ready.exists():
        subprocess.run([python, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(executable), "-m", "pip", "install", "--quiet", f"ai-dynamo=={VERSION}"], check=True)
        ready.touch()
    return executable


@contextlib.contextmanager
def dynamo(python: Path, fleet: Fleet, model: Path) -> Iterator[str]:
    """Gives its URL once every worker is known to the frontend. KV events, tcp and zmq between processes, discovery by files."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        fleet.write_profile(directory / "profile.npz")
        env = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": str(directory / "kv"),
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_EVENT_PLANE": "zmq",
            "DYN_TCP_RPC_HOST": "127.0.0.1",
            "DYN_SYSTEM_HOST": "127.0.0.1",
        }
        (directory / "kv").mkdir()
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        commands = {"frontend": ["dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port), "--router-mode", "kv"]}
        for role, count in (("prefill", fleet.prefill), ("decode", fleet.decode)):
            who = ["--model-path", str(model), "--model-name", "demo", "--disaggregation-mode", role, "--num-workers", str(count)]
            commands[role] = ["dynamo.mocker", *who, *fleet.mocker_args(directory / "profile.npz")]
        running = {}
        for title, command in commands.items():
            own = {**env, "DYN_SYSTEM_PORT": str(_system_port())}
            running[title] = stack.enter_context(_process([str(python), "-m", *command], own, directory / f"{title}.log"))
        deadline_s = time.monotonic() + _START_S
        while _workers(url) < fleet.prefill + fleet.decode:
            gone = [title for title, process in running.items() if process.poll() is not None]
            if gone or time.monotonic() > deadline_s:
                logs = "\n".join(f"== {title}\n{(directory / f'{title}.log').read_text()[-2000:]}" for title in running)
                raise RuntimeError(f"Dynamo did not come up; ended: {gone}\n{logs}")
            time.sleep(0.5)
        yield url


@contextlib.contextmanager
def _process(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=env, cwd=log.parent, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _system_port() -> int:
    """A free one that 16 bits with a sign can hold, which is how Dynamo reads it. Without, the frontend cannot fetch the tokenizer."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _workers(url: str) -> int:
    """Those that the frontend knows; 0 until it serves the model."""
    try:
        if not _get(f"{url}/v1/models")["data"]:
            return 0
        known = _get(f"{url}/health")
    except OSError:
        return 0
    return sum(instance["endpoint"] == "generate" for instance in known.get("instances", ()))


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)
