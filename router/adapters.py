"""The adapters that vLLM's server knows of: those of the configuration, found by name whenever one is asked for.

vLLM's own way, routes that load files their caller names, stays shut: ``router/served_paths.py``.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any

from vllm.entrypoints.serve.engine.protocol import ModelCard, ModelList, ModelPermission
from vllm.lora.request import LoRARequest

from engine.adapters import AdapterCatalogue
from engine.vllm_lora import named_lora


class ServedAdapters(Mapping[str, LoRARequest]):
    """In the place of the dictionary in which vLLM's server looks for the ``model`` of a request.

    It is asked, and never gone through: that is how vLLM gives chats with images an adapter called ``image``, and most one called ``text``.
    """

    def __init__(self, catalogue: AdapterCatalogue) -> None:
        self._catalogue = catalogue

    def __contains__(self, name: object) -> bool:
        return self._catalogue.find(name) is not None

    def __getitem__(self, name: str) -> LoRARequest:
        adapter = self._catalogue.find(name)
        if adapter is None:
            raise KeyError(name)
        return named_lora(adapter)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def values(self) -> ValuesView[LoRARequest]:
        return {}.values()

    def items(self) -> ItemsView[str, LoRARequest]:
        return {}.items()


def serve_adapters(models: Any, catalogue: AdapterCatalogue) -> None:
    """From now on ``models``, vLLM's ``OpenAIServingModels``, finds the catalogue's adapters, and lists them as vLLM does its own."""
    models.lora_requests = ServedAdapters(catalogue)
    list_base, base = models.show_available_models, models.base_model_paths[0].name

    async def show_available_models() -> ModelList:
        listed: ModelList = await list_base()
        listed.data.extend(
            ModelCard(id=each.name, root=each.name, parent=each.base_model or base, permission=[ModelPermission()])
            for each in catalogue.all()
        )
        return listed

    models.show_available_models = show_available_models
