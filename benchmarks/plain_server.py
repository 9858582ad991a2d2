"""The plain vLLM server in front of one instant engine: ``python -m benchmarks.plain_server MODEL PORT``."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import uvicorn
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from router.front_half import build_server, front_half_config


async def serve(model: str, port: int) -> None:
    """Serves until killed; the engine ends with it."""
    with tempfile.TemporaryDirectory() as directory:
        addresses = {"input_address": f"ipc://{directory}/in", "output_address": f"ipc://{directory}/out"}
        command = [sys.executable, "-m", "benchmarks.instant_engine", addresses["input_address"], addresses["output_address"]]
        engine = subprocess.Popen(command, cwd=Path(__file__).parent.parent)  # noqa: ASYNC220 - nothing is served yet
        try:
            config = front_half_config(model, "demo", {"max_model_len": 4096})
            llm = AsyncLLM(config, UniProcExecutor, log_stats=False, log_requests=False, client_addresses=addresses)
            app = build_server(model, "demo", config, {})
            await init_app_state(llm, app.state, app.state.args, ("generate",))
            await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", access_log=False)).serve()
        finally:
            engine.terminate()
            engine.wait(10)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
