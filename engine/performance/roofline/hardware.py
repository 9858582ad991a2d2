"""What a GPU can do at best, read from YAML in which every figure names its source."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml

from core.errors import ConfigError

_SHIPPED = Path(__file__).parent / "data" / "hardware.yaml"


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number and where it is from."""

    value: float
    source: str


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As it is in the file; what each key means is at its top."""

    what: str
    memory_bytes: Figure
    memory_bytes_per_s: Figure
    flops_16: Figure
    link_bytes_per_s: Figure
    node_gpus: Figure
    network_bytes_per_s: Figure
    flops_8: Figure | None = None
    flops_4: Figure | None = None
    price_per_h: Figure | None = None
    is_cpu: bool = False


class Hardware(msgspec.Struct, frozen=True):
    """One GPU (or CPU socket) and its links."""

    name: str
    what: str
    memory_bytes: float
    memory_bytes_per_s: float
    flops_by_bits: dict[int, float]
    """Has 16, perhaps 8 and 4."""
    link_bytes_per_s: float
    node_gpus: int
    network_bytes_per_s: float
    price_per_h: float | None = None
    """Dollars; None: not known."""
    is_cpu: bool = False
    """Of a CPU's sockets, not GPUs."""

    def flops(self, bits: int) -> float:
        """Per second, with operands of so many bits; what it cannot do so narrow it does as narrow as it can."""
        return self.flops_by_bits[min(known for known in self.flops_by_bits if known >= bits)]

    def exchange_bytes_per_s(self, gpus: int) -> float:
        """Between ``gpus`` of them: as fast as the slowest link among them."""
        return self.link_bytes_per_s if gpus <= self.node_gpus else min(self.link_bytes_per_s, self.network_bytes_per_s)


def shipped_hardware() -> list[str]:
    """Names of what comes with Baton, in the file's order."""
    return list(_shipped())


def hardware_name(written: str) -> str:
    """As what comes with Baton is called, where it is written in other letters; everything else stays as it is."""
    return next((name for name in _shipped() if name.lower() == written.lower()), written)


def find_hardware(name: str) -> Hardware:
    """One that comes with Baton, in any letters, or ``FILE#NAME``. Raises ConfigError."""
    path, separator, inside = hardware_name(name).rpartition("#")
    known = read_hardware(Path(path).expanduser()) if separator else _shipped()
    if (found := known.get(inside)) is None:
        where = path or "those that come with Baton; a file of your own is FILE#NAME"
        raise ConfigError(f"no hardware is called {inside!r}; known: {', '.join(known)} ({where})", "hardware")
    return found


def read_hardware(path: Path) -> dict[str, Hardware]:
    """All of a file. Raises ConfigError with the entry and the key that is wrong."""
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot be read: {error}", str(path)) from None
    if not isinstance(values, dict) or not values:
        raise ConfigError("must have an entry per kind of hardware", str(path))
    return {str(name): _hardware(str(name), value, path) for name, value in values.items()}


@cache
def _shipped() -> dict[str, Hardware]:
    return read_hardware(_SHIPPED)


def _hardware(name: str, value: Any, path: Path) -> Hardware:
    try:
        entry = msgspec.convert(value, _Entry, strict=False)  # YAML takes 450e9 for a word
    except msgspec.ValidationError as error:
        raise ConfigError(str(error), f"{path}: {name}") from None
    figures = {field: getattr(entry, field) for field in entry.__struct_fields__ if isinstance(getattr(entry, field), Figure)}
    for field, figure in figures.items():
        if not figure.value > 0:
            raise ConfigError("must be above 0", f"{path}: {name}.{field}")
        if not figure.source.strip():
            raise ConfigError("needs a source", f"{path}: {name}.{field}")
    return Hardware(
        name,
        entry.what,
        entry.memory_bytes.value,
        entry.memory_bytes_per_s.value,
        {bits: figures[f"flops_{bits}"].value for bits in (16, 8, 4) if f"flops_{bits}" in figures},
        entry.link_bytes_per_s.value,
        int(entry.node_gpus.value),
        entry.network_bytes_per_s.value,
        entry.price_per_h.value if entry.price_per_h is not None else None,
        entry.is_cpu,
    )
