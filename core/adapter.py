"""A LoRA adapter as everybody names it: the same name has the same number in every router and engine, without anybody asking anybody."""

from __future__ import annotations

import hashlib
import re

import msgspec

ADAPTER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""Names are also names of folders: with none of these can a client leave the folder it is looked for in."""

_NAME = re.compile(ADAPTER_NAME)
_SIGNED_64 = (1 << 63) - 1


class Adapter(msgspec.Struct, frozen=True):
    """One adapter, where this node finds it."""

    name: str
    path: str
    """A directory on this node, or a hub name. Of the configuration's making alone, never a client's."""
    base_model: str | None = None
    """What it is listed as a child of; None: the model that is served."""

    @property
    def number(self) -> int:
        """What engines call it."""
        return adapter_number(self.name)


def adapter_number(name: str) -> int:
    """A positive number of 63 bits, made of the name alone."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") & _SIGNED_64) or 1


def is_adapter_name(name: object) -> bool:
    """Whether an adapter can be called so."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None
