"""The shapes of the models that step times are known for: how many bytes the KV of one token has."""

from __future__ import annotations

import msgspec


class ModelShape(msgspec.Struct, frozen=True):
    """From a model's public configuration."""

    layers: int
    kv_heads: int
    head_size: int
    kv_element_bytes: int = 2
    """16-bit floats unless said otherwise."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Key and value, of all layers and of the GPUs of one engine together."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.kv_element_bytes


MODEL_SHAPES = {
    "llama-3.1-8b": ModelShape(layers=32, kv_heads=8, head_size=128),
    "llama-3.1-70b": ModelShape(layers=80, kv_heads=8, head_size=128),
    "llama-3.1-70b-fp8": ModelShape(layers=80, kv_heads=8, head_size=128, kv_element_bytes=1),
    "qwen3-32b": ModelShape(layers=64, kv_heads=8, head_size=128),
    "llama-2-70b": ModelShape(layers=80, kv_heads=8, head_size=128),
    "bloom-176b": ModelShape(layers=70, kv_heads=112, head_size=128),
    "opt-13b": ModelShape(layers=40, kv_heads=40, head_size=128),
    "opt-66b": ModelShape(layers=64, kv_heads=72, head_size=128),
}
