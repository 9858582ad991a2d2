"""Over which GPUs one engine is spread, and how."""

from __future__ import annotations

import msgspec

from core.errors import ConfigError
from engine.performance.roofline.model import Experts, GroupedAttention, LatentAttention, Model


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``tp`` GPUs share every layer, ``pp`` such groups have layers of their own, ``ep`` GPUs have experts of their own.

    As in vLLM, groups of ``tp`` GPUs beside each other (data parallel) share the experts of all: ``ep`` is ``tp`` times the number
    of such groups, and a step's work is that of one group. ``ep`` 1: experts are split like everything else.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "ep"):
            if getattr(self, name) < 1:
                raise ConfigError("must be at least 1", name)
        if self.ep > 1 and self.ep % self.tp:
            raise ConfigError(f"must be 1 or a multiple of tp, which is {self.tp}", "ep")

    @property
    def gpus(self) -> int:
        return self.pp * max(self.tp, self.ep)

    @property
    def groups(self) -> int:
        """That share the experts."""
        return max(1, self.ep // self.tp)

    def check(self, model: Model) -> None:
        """Raises ConfigError where the model cannot be split so."""
        if self.pp > model.layer_count:
            raise ConfigError(f"is more than the model's {model.layer_count} layers", "pp")
        for group in model.layers:
            attention, mlp = group.attention, group.mlp
            if attention.heads % self.tp:
                raise ConfigError(f"does not divide the model's {attention.heads} heads", "tp")
            if isinstance(attention, GroupedAttention) and self.kv_heads(attention) * self.tp % attention.kv_heads:
                raise ConfigError(f"neither divides the model's {attention.kv_heads} KV heads nor is a multiple of them", "tp")
            if self.ep > 1 and isinstance(mlp, Experts) and mlp.experts % self.ep:
                raise ConfigError(f"does not divide the model's {mlp.experts} experts", "ep")
        if self.ep > 1 and not any(isinstance(group.mlp, Experts) for group in model.layers):
            raise ConfigError("is for models with experts", "ep")

    def kv_heads(self, attention: GroupedAttention) -> int:
        """On each GPU: where there are fewer than GPUs, several have the same."""
        return -(-attention.kv_heads // self.tp)

    def cached_size(self, attention: GroupedAttention | LatentAttention) -> int:
        """Values that each GPU keeps per token and layer. A latent vector serves all heads: every GPU has the whole."""
        if isinstance(attention, LatentAttention):
            return attention.cached_size
        return 2 * self.kv_heads(attention) * attention.head_size
