"""Servers to measure, each a context that is entered when it answers and left when all of it has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.demo_model import ensure_demo_model

ROOT = Path(__file__).parent.parent
_START_S = 240.0
ENGINE_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def bare_vllm() -> Iterator[str]:
    """The plain vLLM server with one engine, told to write no logs and statistics. Gives its URL."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(ensure_demo_model())]
    command += ["--served-model-name", "demo", "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "4096", "--dtype", "float32"]
    command += ["--enforce-eager", "--distributed-executor-backend", "uni", "--disable-log-stats", "--disable-uvicorn-access-log"]
    with _running(command, f"http://127.0.0.1:{port}"):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def plain_instant() -> Iterator[str]:
    """The plain vLLM server in front of one instant engine."""
    port = free_port()
    with _running([sys.executable, "-m", "benchmarks.plain_server", str(ensure_demo_model()), str(port)], f"http://127.0.0.1:{port}"):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def baton(changes: Mapping[str, Any] | None = None, start_s: float = _START_S) -> Iterator[str]:
    """``baton up`` with the demo's configuration, ``changes`` over its ``args``; ``start_s`` is how long it may take to answer."""
    port = free_port()
    document = yaml.safe_load((ROOT / "deploy/config/cpu-demo.yaml").read_text())
    document["http_options"]["port"] = port
    document["applications"][0]["args"].update(changes or {})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(document, file)
        file.flush()
        url = f"http://127.0.0.1:{port}"
        with _running([sys.executable, "-m", "deploy.cli", "up", file.name], url, "/v1/baton/workers", b'"decode"', start_s):
            yield url


@contextlib.contextmanager
def _running(command: list[str], url: str, path: str = "/v1/models", answer: bytes = b"", start_s: float = _START_S) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**ENGINE_ENV, **os.environ}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + start_s
            while not _answers(url + path, answer):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"{' '.join(command)} did not come up:\n{log.read().decode(errors='replace')[-4000:]}")
                time.sleep(0.5)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(90)


def _answers(url: str, answer: bytes) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return answer in response.read()
    except OSError:
        return False
