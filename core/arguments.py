"""Types for the mappings in a configuration that are handed on to vLLM or to a process, less the keys Baton sets itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

_MODEL = "the model is `model`, at the top of args"
_NAME = "the name clients ask for is `served_model_name`, at the top of args"
_RANKS = "a worker is one engine; raise `count` of the pool instead"
_LORA = "adapters, and the room for them, are `lora`, at the top of args"
_LISTENS = "Ray Serve listens, not vLLM's server; see `http_options` at the top of the file"

ENGINE_ARGS_SET_BY_BATON: Mapping[str, str] = {
    "model": _MODEL,
    "served_model_name": _NAME,
    "tensor_parallel_size": "`tensor_parallel_size` belongs to the pool, `prefill` or `decode`, beside the `num_gpus` it has to match",
    "data_parallel_size": _RANKS,
    "data_parallel_size_local": _RANKS,
    "data_parallel_rank": _RANKS,
    "data_parallel_backend": _RANKS,
    "kv_transfer_config": "it is made from `kv_transfer`",
    "kv_events_config": "workers read these events",
    "logits_processors": "they may look back at the output, which is made on two workers",
    "disable_log_stats": "load is balanced by these statistics",
    "enable_lora": _LORA,
    "max_loras": _LORA,
    "max_cpu_loras": _LORA,
    "max_lora_rank": _LORA,
    "default_mm_loras": "which adapter a request gets is its `model` alone",
}
SERVER_ARGS_SET_BY_BATON: Mapping[str, str] = {
    "model": _MODEL,
    "served_model_name": _NAME,
    "host": _LISTENS,
    "port": _LISTENS,
    "uds": _LISTENS,
    "api_server_count": "the number of servers is `replicas` of `router`",
    "lora_modules": _LORA,
    "headless": "a router is nothing but a server",
    "api_key": "clients' keys are `router.api_keys`: kept out of this file, changed without a restart, and needed on every path",
}
ENVIRONMENT_SET_BY_BATON: Mapping[str, str] = {
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "nothing that comes from a socket is ever unpickled",
    "VLLM_API_KEY": "clients' keys are `router.api_keys`",
    "VLLM_SERVER_DEV_MODE": "its routes stop engines and call anything in them; none is served",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "clients would name files to load; adapters that come later are put into `lora.directory`",
    "VLLM_NIXL_SIDE_CHANNEL_PORT": "every worker gets a free port of its own",
    "VLLM_NIXL_SIDE_CHANNEL_HOST": "it follows `host`, at the top of args",
}
SAME_ON_BOTH_SIDES = frozenset(
    {"block_size", "dtype", "kv_cache_dtype", "max_model_len", "quantization", "revision", "tokenizer", "trust_remote_code"}
)
"""Engine arguments that a KV cache, or the router's tokenising, must find alike on a prefill and a decode worker."""


def _unless_set_by_baton(reserved: Mapping[str, str]) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name in reserved:
            raise ValueError(f"`{name}` is set by Baton: {reserved[name]}")
        return name

    return check


def _unless_same_on_both_sides(name: str) -> str:
    if name in SAME_ON_BOTH_SIDES:
        raise ValueError(f"`{name}` must be the same for prefill and decode; move it to `args` of `engine`")
    return name


def _underscored(arguments: Any) -> Any:
    """The same mapping with ``max-model-len`` written ``max_model_len``: names are copied from command lines."""
    if not isinstance(arguments, dict):
        return arguments
    renamed = {str(name).removeprefix("--").replace("-", "_"): value for name, value in arguments.items()}
    if len(renamed) < len(arguments):
        raise ValueError("an argument is given twice, once with dashes and once with underscores; keep one")
    return renamed


def _text(value: Any) -> Any:
    """A number as text: ``OMP_NUM_THREADS: 1`` is what everybody writes. Not a boolean: ``true`` could mean 1, true or True."""
    if isinstance(value, bool):
        raise ValueError('an environment variable is text; write "1", "0" or "true" in quotes')
    return str(value) if isinstance(value, int | float) else value


_EngineArg = Annotated[str, AfterValidator(_unless_set_by_baton(ENGINE_ARGS_SET_BY_BATON))]
_ServerArg = Annotated[str, AfterValidator(_unless_set_by_baton(SERVER_ARGS_SET_BY_BATON))]
_Variable = Annotated[str, AfterValidator(_unless_set_by_baton(ENVIRONMENT_SET_BY_BATON))]

EngineArgs = Annotated[dict[_EngineArg, Any], BeforeValidator(_underscored)]
"""vLLM engine arguments by the names of its flags; dashes become underscores."""

PoolEngineArgs = Annotated[dict[Annotated[_EngineArg, AfterValidator(_unless_same_on_both_sides)], Any], BeforeValidator(_underscored)]
"""The same, for one pool only."""

ServerArgs = Annotated[dict[_ServerArg, Any], BeforeValidator(_underscored)]
"""Arguments of vLLM's OpenAI server by the names of its flags; dashes become underscores."""

Environment = dict[_Variable, Annotated[str, BeforeValidator(_text)]]
"""Environment variables; numbers become text."""
