"""The reference: vLLM's own OpenAI server with one plain engine, on the same model as Baton's workers."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from deploy.demo_model import ensure_demo_model
from tests.support.processes import ServerProcess, free_port

START_LIMIT_S = 400.0
STOP_LIMIT_S = 60.0
MODEL = "demo"

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # with the `uni` executor: engine and server in one process, nothing spins
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # as Baton's engines do: the first answer with logprobs would wait for a C++ compiler
}


@dataclass(frozen=True)
class ReferenceServer:
    """A running vLLM server."""

    url: str
    model: str = MODEL


@contextlib.contextmanager
def reference_up(*more: str) -> Iterator[ReferenceServer]:
    """Serves the demo model with the arguments that ``baton_process.ARGS`` gives Baton's engines and router, every prompt in one step;
    and with ``more``."""
    home = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(ensure_demo_model()), "--served-model-name", MODEL, "--distributed-executor-backend", "uni"]
    command += ["--enforce-eager", "--dtype", "float32", "--max-model-len", "4096", "--enable-prompt-tokens-details"]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    # On the CPU, vLLM's own engine ends when a seeded prompt comes in chunks. Room for several prompts at once.
    command += ["--max-num-batched-tokens", "16384", *more]
    process = ServerProcess(command, home, ENVIRONMENT)
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/health", timeout=5.0).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    try:
        process.wait_ready(is_ready, START_LIMIT_S)
        yield ReferenceServer(url)
        process.terminate(STOP_LIMIT_S)
    finally:
        process.kill()
        shutil.rmtree(home, ignore_errors=True)
