"""What a model is made of, as far as operations and bytes depend on it. Sizes are of the whole model, before it is split over GPUs."""

from __future__ import annotations

import msgspec

from engine.performance.roofline.precision import Precision


class GroupedAttention(msgspec.Struct, frozen=True, tag="grouped"):
    """Every query head has its own keys (``kv_heads == heads``), or several share them."""

    heads: int
    kv_heads: int
    head_size: int
    window: int | None = None
    """Tokens that are attended to at most, one's own included; None: all."""


class LatentAttention(msgspec.Struct, frozen=True, tag="latent"):
    """Keys and values of all heads are made from one small vector per token, and only that is kept (DeepSeek-V2's MLA)."""

    heads: int
    query_rank: int | None
    """None: queries are projected at once."""
    kv_rank: int
    nope_size: int
    """Of the part of a head's query and key that has no position."""
    rope_size: int
    value_size: int

    @property
    def cached_size(self) -> int:
        """Values per token and layer in the KV cache."""
        return self.kv_rank + self.rope_size

    @property
    def query_size(self) -> int:
        return self.nope_size + self.rope_size


Attention = GroupedAttention | LatentAttention


class Mlp(msgspec.Struct, frozen=True, tag="mlp"):
    """Up, activation, down; gated ones have two matrices up."""

    intermediate: int
    is_gated: bool = True

    @property
    def matrices(self) -> int:
        return 3 if self.is_gated else 2


class Experts(msgspec.Struct, frozen=True, tag="experts"):
    """A router sends each token to ``per_token`` of ``experts``; ``shared_intermediate`` is of what every token passes."""

    experts: int
    per_token: int
    intermediate: int
    shared_intermediate: int = 0
    unaware_intermediate: int = 0
    """``intermediate_size`` of the configuration: what a tool that knows no experts takes the layer for."""

    def touched(self, tokens: float) -> float:
        """How many different experts ``tokens`` tokens are expected to need, if each chooses evenly and for itself.

        All weights have to be read for a large batch, few for a small one: 8 of 256 for one token, 163 for 32.
        """
        share: float = (1.0 - self.per_token / self.experts) ** tokens
        return self.experts * (1.0 - share)


class Layers(msgspec.Struct, frozen=True):
    """``count`` layers that are alike."""

    count: int
    attention: Attention
    mlp: Mlp | Experts


class Model(msgspec.Struct, frozen=True):
    """A decoder-only transformer."""

    hidden: int
    vocabulary: int
    layers: tuple[Layers, ...]
    is_tied: bool = False
    """The output head is the embedding."""
    precision: Precision = Precision()
    """As published."""
    longest_tokens: int | None = None
    """Prompt and answer together, at most, as vLLM reads it; None: its ``config.json`` does not say."""

    @property
    def layer_count(self) -> int:
        return sum(group.count for group in self.layers)
