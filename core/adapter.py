"""A LoRA adapter as everybody names it."""

from __future__ import annotations

import re

import msgspec

ADAPTER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""Names are also names of folders: with none of these can a client leave the folder it is looked for in."""

_NAME = re.compile(ADAPTER_NAME)


class Adapter(msgspec.Struct, frozen=True):
    """One adapter, where this node finds it."""

    name: str
    path: str
    """A directory on this node, or a hub name. Of the configuration's making alone, never a client's."""
    base_model: str | None = None
    """What it is listed as a child of; None: the model that is served."""


def is_adapter_name(name: object) -> bool:
    """Whether an adapter can be called so."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None
