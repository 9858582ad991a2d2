"""The adapters of a configuration as they are found on this node: named ones, and the sub-folders of a directory."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from core.adapter import Adapter, is_adapter_name
from core.lora_config import LoraConfig

_MARK = "adapter_config.json"
"""What makes a folder an adapter's; PEFT writes it."""

_LISTED = 1000
"""Of a directory's adapters, so many are listed; all can be asked for."""


class AdapterCatalogue:
    """Routers ask it what clients may call, workers where that is. Looks at the directory anew each time: it may grow while all run.

    ``base`` is what clients call the model; no adapter can take its name.
    """

    def __init__(self, lora: LoraConfig, base: str = "") -> None:
        self._named = {name: Adapter(name, each.path, each.base_model) for name, each in lora.adapters.items()}
        self._directory = Path(lora.directory) if lora.directory else None
        self._base = base

    def find(self, name: object) -> Adapter | None:
        """The adapter of that name, which may be anything that a client sent. One stat at most."""
        if not isinstance(name, str) or not is_adapter_name(name) or name == self._base:
            return None
        if (named := self._named.get(name)) is not None:
            return named
        if self._directory is None or not (self._directory / name / _MARK).is_file():
            return None
        return Adapter(name, str(self._directory / name))

    def all(self) -> list[Adapter]:
        """Those that are there now, the named ones first."""
        found: list[str] = []
        if self._directory is not None and self._directory.is_dir():
            found = sorted(folder.name for folder in self._directory.iterdir() if folder.name not in self._named)
        there = (adapter for name in found if (adapter := self.find(name)) is not None)
        return [*self._named.values(), *islice(there, _LISTED)]
