"""vLLM's front half without an engine: its templates, tokenising, detokenising and OpenAI server, over our cluster client.

Everything here follows vLLM 0.32 and is watched by ``tests/contract/test_vllm_seam.py``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI
from vllm.config import VllmConfig
from vllm.config.lora import LoRAConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.outputs import RequestOutput
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from engine.adapters import AdapterCatalogue
from router.adapters import serve_adapters
from router.cluster_client import ClusterClient
from router.unreadable import refuse_unreadable

_DEFAULT_SERVER_ARGS: Mapping[str, Any] = {
    "enable_prompt_tokens_details": True,  # clients see in `usage` what the prefix cache saved them
}


class RouterLLM(AsyncLLM):
    """vLLM's ``AsyncLLM`` with the cluster where its engine core would be."""

    def __init__(self, config: VllmConfig, client: ClusterClient) -> None:
        with _engine_core_is(client):
            super().__init__(config, UniProcExecutor, log_stats=False, log_requests=False)

    async def abort(self, request_id: str | Iterable[str], internal: bool = False) -> None:
        """The client is gone: told apart from the aborts that end a request whose stop string has been seen."""
        with self.engine_core.client_gone():
            await super().abort(request_id, internal)

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """Called before a request is registered: the place to refuse it without leaving anything behind."""
        self.engine_core.check_admission(n)
        super().check_admission(n, request_id)

    async def _add_request(self, request: EngineCoreRequest, *registered: Any) -> None:
        """A request that the client does not take is forgotten. vLLM sees to that only with ``n > 1``; else it would be kept for ever."""
        try:
            await super()._add_request(request, *registered)
        except BaseException:
            if self.output_processor.has_request(request.request_id):
                await self.abort(request.request_id, internal=True)
            raise

    async def generate(self, prompt: Any, sampling_params: Any, request_id: str, **options: Any) -> AsyncGenerator[RequestOutput, None]:
        """An output that ends in an error becomes the error that says why, with its HTTP status, before vLLM's server sees it."""
        async for output in super().generate(prompt, sampling_params, request_id, **options):
            if any(completion.finish_reason == "error" for completion in output.outputs):
                raise self.engine_core.failure(request_id)
            yield output


@contextlib.contextmanager
def _engine_core_is(client: ClusterClient) -> Iterator[None]:
    """``AsyncLLM`` makes its engine core in its constructor, by this one static method; for that moment it makes ours."""
    original = EngineCoreClient.__dict__["make_async_mp_client"]
    EngineCoreClient.make_async_mp_client = staticmethod(lambda *args, **kwargs: client)
    try:
        yield
    finally:
        EngineCoreClient.make_async_mp_client = original


os.environ.pop("VLLM_ALLOW_INSECURE_SERIALIZATION", None)  # with it, vLLM unpickles what comes from a socket


def front_half_config(model: str, served_name: str, engine_args: Mapping[str, Any]) -> VllmConfig:
    """vLLM's configuration as far as the front half reads it: nothing of devices, so it is made on any node."""
    arguments = AsyncEngineArgs(model=model, served_model_name=[served_name], **engine_args)
    model_config = arguments.create_model_config()
    model_config.quantization = None  # concerns kernels, which a router has none of
    return VllmConfig(
        model_config=model_config,
        structured_outputs_config=arguments.create_structured_outputs_config(),
        logging_config=arguments.create_logging_config(),
        lora_config=LoRAConfig(max_lora_rank=arguments.max_lora_rank, max_loras=arguments.max_loras) if arguments.enable_lora else None,
    )


def build_server(model: str, served_name: str, config: VllmConfig, server_args: Mapping[str, Any]) -> FastAPI:
    """vLLM's FastAPI app. Raises SystemExit for server arguments it does not know, with its usage on stderr."""
    arguments = ["--model", model, "--served-model-name", served_name, *_as_flags({**_DEFAULT_SERVER_ARGS, **server_args})]
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    args.disable_log_stats = True
    app: FastAPI = build_app(args, ("generate",), config.model_config)
    app.state.server = SimpleNamespace(should_exit=False)  # vLLM asks its own server to exit when its engine is dead
    return app


async def connect_server(app: FastAPI, llm: RouterLLM, adapters: AdapterCatalogue | None = None) -> None:
    """Gives the app its engine client; it can serve afterwards, ``adapters`` beside the model."""
    await init_app_state(llm, app.state, app.state.args, ("generate",))
    if adapters is not None:
        serve_adapters(app.state.openai_serving_models, adapters)
    refuse_unreadable(app.state.online_renderer)


def _as_flags(arguments: Mapping[str, Any]) -> list[str]:
    """``{"a_b": True, "c": 1}`` as ``["--a-b", "--c", "1"]``; False and None are left out, lists repeat their values."""
    flags: list[str] = []
    for name, value in arguments.items():
        if value is None or value is False:
            continue
        flags.append("--" + name.replace("_", "-"))
        if isinstance(value, list | tuple):
            flags += [str(item) for item in value]
        elif value is not True:
            flags.append(str(value))
    return flags
