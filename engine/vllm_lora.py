"""A LoRA adapter in vLLM's words."""

from __future__ import annotations

from vllm.lora.request import LoRARequest

from core.adapter import Adapter

_FIRST = 1 << 20
"""Well above the numbers of the adapters that vLLM makes up to warm itself up."""
_ANY = 1
"""On the wire a number says nothing: only an engine goes by one, and by its own."""

_numbers: dict[str, int] = {}
"""Of all names that this process has used."""


def lora_number(name: str) -> int:
    """What this process's engine calls it. Small, as some of vLLM's runners keep numbers in 32 bits, and never the same for two names:
    an engine tells adapters apart by nothing else. Blocks are hashed with the name, so that no other process needs to know."""
    return _numbers.setdefault(name, _FIRST + len(_numbers))


def engine_lora(adapter: Adapter) -> LoRARequest:
    """For engines. Name and path are what its blocks are hashed with there."""
    return LoRARequest(adapter.name, lora_number(adapter.name), adapter.path, base_model_name=adapter.base_model)


def named_lora(adapter: Adapter) -> LoRARequest:
    """For routers, and the wire: its name for its path, so that none is told to clients, or taken from a router."""
    return LoRARequest(adapter.name, _ANY, adapter.name, base_model_name=adapter.base_model)
