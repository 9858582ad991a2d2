"""Operators and exchanges: what each does on one GPU."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """Operators that come about equally near to what the GPU can do."""

    LINEAR = "linear"
    EXPERTS = "experts"
    PREFILL_ATTENTION = "prefill_attention"
    DECODE_ATTENTION = "decode_attention"
    ELEMENTWISE = "elementwise"


class Op(msgspec.Struct, frozen=True, gc=False):
    """One operator of one layer, on one GPU; ``count`` layers have it."""

    name: str
    kind: Kind
    bits: int
    """Of the operands when they are multiplied."""
    count: int
    flops: float
    weight_bytes: float = 0.0
    load_bytes: float = 0.0
    """Activations read."""
    store_bytes: float = 0.0
    """Activations written."""
    kv_load_bytes: float = 0.0
    kv_store_bytes: float = 0.0

    @property
    def bytes(self) -> float:
        return self.weight_bytes + self.load_bytes + self.store_bytes + self.kv_load_bytes + self.kv_store_bytes


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """``count`` times in a step, ``gpus`` GPUs pass activations on to each other."""

    name: str
    gpus: int
    count: int
    wire_bytes: float
    """That each GPU sends."""

    @classmethod
    def all_reduce(cls, name: str, gpus: int, count: int, size_bytes: float) -> Exchange:
        """Every GPU has a part of a sum and needs the sum: passed round once to add up and once to hand out."""
        return cls(name, gpus, count, 2.0 * (gpus - 1) / gpus * size_bytes)
