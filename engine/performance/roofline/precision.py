"""In how many bits weights, activations and KV are kept and computed with."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from core.errors import ConfigError

Bits = Literal[4, 8, 16]

_SHORT = re.compile(r"w(4|8|16)a(4|8|16)kv(4|8|16)(?:e(4|8|16)a(4|8|16))?")


class Precision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bits per value. A product is computed in the wider of its two operands: 4-bit weights save bytes, not operations."""

    weight_bits: Bits = 16
    activation_bits: Bits = 16
    """What linear layers read. The stream between them stays in 16 bits."""
    kv_bits: Bits = 16
    expert_bits: Bits | None = None
    """Of routed experts' weights; None: as all weights. Some models keep experts alone in 4 bits."""
    expert_activation_bits: Bits | None = None
    """What routed experts read; None: as all linear layers."""
    head_bits: Bits = 16
    """Of the embedding and the output head, which most quantised models leave alone."""
    attention_bits: Bits = 16
    """In which scores are computed; 8-bit KV is widened first unless the kernel can do without."""

    @classmethod
    def of(cls, short: str) -> Precision:
        """From the usual short form, such as ``w4a16kv8``; ``w16a16kv8e4a4`` where experts differ. Raises ConfigError."""
        if (match := _SHORT.fullmatch(short)) is None:
            form = "w<bits>a<bits>kv<bits>, perhaps e<bits>a<bits> for experts, with 4, 8 or 16: w8a8kv16"
            raise ConfigError(f"{short!r} is no precision; write {form}", "precision")
        names = ("weight_bits", "activation_bits", "kv_bits", "expert_bits", "expert_activation_bits")
        return msgspec.convert({name: int(bits) for name, bits in zip(names, match.groups(), strict=True) if bits}, cls)

    @property
    def of_experts(self) -> Bits:
        return self.weight_bits if self.expert_bits is None else self.expert_bits

    @property
    def into_experts(self) -> Bits:
        return self.activation_bits if self.expert_activation_bits is None else self.expert_activation_bits
