"""``lora`` of a configuration: which adapters are served beside the model, and how many of them a worker holds."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from core.adapter import ADAPTER_NAME
from core.section import Section

AdapterName = Annotated[str, StringConstraints(pattern=ADAPTER_NAME)]


class AdapterConfig(Section):
    """One adapter."""

    path: str = Field(min_length=1)
    """Its directory, which every worker's node sees, or a hub name: PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``."""
    base_model: str | None = Field(default=None, min_length=1)
    """What ``/v1/models`` names as its parent. Unset: the model that is served."""


class LoraConfig(Section):
    """Adapters by name. None of ``adapters`` and ``directory``: LoRA is off, and costs nothing."""

    adapters: dict[AdapterName, AdapterConfig] = Field(default_factory=dict)
    """By the name clients ask for, as ``model``."""
    directory: str | None = Field(default=None, min_length=1)
    """A folder that every router's and worker's node sees, each sub-folder of which is an adapter of that name. One that is put there
    later can be asked for at once. ``adapters`` of the same name go first."""
    max_loaded: int = Field(default=4, ge=1, le=256)
    """Adapters that a worker holds at once, vLLM's ``max_loras``: each takes memory, from the start, whether or not it is loaded."""
    max_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
    """The largest rank of any of them, vLLM's ``max_lora_rank``. Memory is set aside for it."""
    load_s: float = Field(default=0.5, ge=0)
    """How long loading one probably takes. Routers predict from it until a worker has loaded some."""

    @field_validator("directory")
    @classmethod
    def _is_the_same_everywhere(cls, directory: str | None) -> str | None:
        if directory is not None and not PurePath(directory).is_absolute():
            raise ValueError("has to begin with `/`: routers and workers look for it on their own nodes, from folders of their own")
        return directory

    @property
    def enabled(self) -> bool:
        """Whether there can be any adapter."""
        return bool(self.adapters or self.directory)

    @property
    def engine_args(self) -> dict[str, Any]:
        """vLLM's engine arguments. As many in its cache as in a batch: Baton says who goes, so that it knows who is there."""
        if not self.enabled:
            return {}
        return {"enable_lora": True, "max_loras": self.max_loaded, "max_cpu_loras": self.max_loaded, "max_lora_rank": self.max_rank}
