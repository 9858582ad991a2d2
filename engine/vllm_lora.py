"""A LoRA adapter in vLLM's words."""

from __future__ import annotations

from vllm.lora.request import LoRARequest

from core.adapter import Adapter


def engine_lora(adapter: Adapter) -> LoRARequest:
    """For engines. Name and path are what its blocks are hashed with there."""
    return LoRARequest(adapter.name, adapter.number, adapter.path, base_model_name=adapter.base_model)


def named_lora(adapter: Adapter) -> LoRARequest:
    """For routers, and the wire: its name for its path, so that none is told to clients, or taken from a router."""
    return LoRARequest(adapter.name, adapter.number, adapter.name, base_model_name=adapter.base_model)
