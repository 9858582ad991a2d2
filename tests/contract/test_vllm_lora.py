"""What LoRA stands on in vLLM: how its server looks for an adapter, how engines name one, and what blocks are hashed with."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.serving import BaseServing
from vllm.lora.ops.torch_ops import bgmv_expand
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys, to_event_extra_keys
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.core_client import AsyncMPClient
from vllm.v1.worker.gpu.lora_utils import LoraState

from core.adapter import Adapter
from core.lora_config import LoraConfig
from engine.adapters import AdapterCatalogue
from engine.vllm_lora import engine_lora, lora_number
from router.adapters import serve_adapters


@pytest.fixture
def models(tmp_path: Path) -> OpenAIServingModels:
    """vLLM's own, with one adapter by name and two in a folder, one of them called as a part of a chat is."""
    for name in ("smith", "text"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").touch()
    client: Any = SimpleNamespace(model_config=SimpleNamespace(max_model_len=4096), renderer=None, input_processor=None)
    models = OpenAIServingModels(client, [BaseModelPath("demo", "/models/demo")])
    lora = LoraConfig.model_validate({"adapters": {"poet": {"path": "/poet", "base_model": "elder"}}, "directory": str(tmp_path)})
    serve_adapters(models, AdapterCatalogue(lora, "demo"))
    return models


def serving(models: OpenAIServingModels) -> Any:
    return BaseServing(models, models.model_config)


@pytest.mark.parametrize("name", ["poet", "smith", "demo"])
async def test_what_is_served_is_found(models: OpenAIServingModels, name: str) -> None:
    """By vLLM's own look-up; nothing of where it lies goes along."""
    asked = SimpleNamespace(model=name, messages=[])
    assert await serving(models)._check_model(asked) is None
    found = serving(models)._maybe_get_adapters(asked)
    assert found == (None if name == "demo" else LoRARequest(name, 1, "any"))
    assert found is None or found.lora_path == name


@pytest.mark.parametrize("name", ["nobody", "../smith", "/poet", "smith/", "."])
async def test_what_is_not_served_is_404(models: OpenAIServingModels, name: str) -> None:
    error = await serving(models)._check_model(SimpleNamespace(model=name))
    assert (error.error.code, error.error.type, error.error.param) == (404, "NotFoundError", "model")


def test_no_chat_gets_an_adapter_that_it_has_not_asked_for(models: OpenAIServingModels) -> None:
    """vLLM looks among all adapters for one with the name of a chat's parts."""
    chat = SimpleNamespace(model="demo", messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}])
    assert serving(models)._maybe_get_adapters(chat, supports_default_mm_loras=True) is None


async def test_they_are_listed_with_their_parents(models: OpenAIServingModels) -> None:
    cards = (await models.show_available_models()).data
    assert [(card.id, card.parent) for card in cards] == [("demo", None), ("poet", "elder"), ("smith", "demo"), ("text", "demo")]
    assert [card.root for card in cards[1:]] == ["poet", "smith", "text"]


def test_engines_are_told_with_these() -> None:
    """engine/vllm_engine.py: what has an adapter loaded, and unloaded; and a request names it by these fields."""
    assert list(inspect.signature(AsyncMPClient.add_lora_async).parameters) == ["self", "lora_request"]
    assert list(inspect.signature(AsyncMPClient.remove_lora_async).parameters) == ["self", "lora_id"]
    assert list(inspect.signature(EngineCore.remove_lora).parameters) == ["self", "lora_id"]
    assert LoRARequest.__struct_fields__[:4] == ("lora_name", "lora_int_id", "lora_path", "base_model_name")


def test_one_that_is_loaded_is_not_loaded_again() -> None:
    """cluster/adapter_slots.py: the engine goes by the number, and evicts nobody while there is room. By its source: other words fail."""
    source = inspect.getsource(LRUCacheWorkerLoRAManager.add_adapter)
    assert "lora_request.lora_int_id not in self.list_adapters()" in source
    assert "len(self._adapter_manager) + 1 > self._adapter_manager.capacity" in source


def test_numbers_fit_where_runners_keep_them() -> None:
    """engine/vllm_lora.py: vLLM's runner for GPUs has 32 bits for them, and a larger one would end its engine in a step."""
    source = inspect.getsource(LoraState.__init__)
    assert "dtype=np.int32" in source
    assert lora_number("poet") <= np.iinfo(np.int32).max


def test_blocks_are_hashed_with_name_and_path() -> None:
    """And events tell of the name alone, which is what engine/vllm_kv_events.py reads."""
    request: Any = SimpleNamespace(lora_request=engine_lora(Adapter("poet", "/a")), mm_features=[], cache_salt=None, prompt_embeds=None)
    keys, _ = generate_block_hash_extra_keys(request, 0, 16, 0)
    assert keys == (("lora", "poet", "/a"),)
    assert to_event_extra_keys([keys]) == [("poet",)]


def test_on_the_cpu_no_adapter_is_the_last_slot() -> None:
    """Why engine/vllm_engine.py has one more there than is filled. Once this fails, that can go."""
    weights, made = torch.zeros(2, 1, 4, 3), torch.zeros(2, 4)
    weights[1] = 1.0
    bgmv_expand(torch.ones(2, 3), weights, made, torch.tensor([0, -1]))
    assert made.tolist() == [[0.0] * 4, [3.0] * 4]
