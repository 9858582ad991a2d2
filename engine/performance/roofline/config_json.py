"""Reads a Hugging Face ``config.json``. What is not known is refused with the key's name, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from core.errors import ConfigError
from engine.performance.roofline.model import Attention, Experts, GroupedAttention, LatentAttention, Layers, Mlp, Model
from engine.performance.roofline.quantization import precision_of

_UNGATED = frozenset({"opt", "bloom", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "falcon", "mpt", "phi", "starcoder2"})
"""Model types whose MLP has one matrix up."""

_UNKNOWN_KINDS = {
    "mamba_d_state": "state-space layers",
    "ssm_state_size": "state-space layers",
    "hybrid_override_pattern": "state-space layers",
    "linear_num_value_heads": "linear attention",
    "index_topk": "attention to chosen tokens only",
    "attention_chunk_size": "attention in chunks",
    "global_head_dim": "other heads in some layers",
    "num_global_key_value_heads": "other heads in some layers",
    "is_encoder_decoder": "an encoder",
}
"""Keys that say that a model has what the operators here do not describe."""


_LONGEST = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "max_seq_length", "seq_len")
_NOT_LONGER = frozenset({"default", "su", "longrope", "llama3", "mrope"})
"""Ways to scale positions that are in the number of positions already, or change none."""


class _Config:
    """Looks keys up under their several names."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def get(self, *names: str) -> Any:
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def size(self, *names: str, default: int | None = None) -> int:
        """A whole number above 0. Raises ConfigError with all of its names."""
        value = self.get(*names)
        if value is None and default is not None:
            return default
        if value is None:
            others = f" (also called {', '.join(names[1:])})" if len(names) > 1 else ""
            raise ConfigError(f"is missing{others}", names[0])
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ConfigError(f"must be a whole number above 0, not {value!r}", next(name for name in names if name in self.values))
        return value


def model_of(values: Mapping[str, Any]) -> Model:
    """The model that a ``config.json`` describes; of one that also sees or hears, the language part. Raises ConfigError."""
    inner = values.get("text_config")
    config = _Config({**values, **inner} if isinstance(inner, Mapping) else values)
    for key, what in _UNKNOWN_KINDS.items():
        if config.get(key):
            raise ConfigError(f"says that the model has {what}, which the roofline does not know", key)
    hidden = config.size("hidden_size", "n_embd", "d_model")
    count = config.size("num_hidden_layers", "n_layer", "n_layers")
    attentions = _attentions(config, hidden, count)
    mlps = _mlps(config, hidden, count)
    # Operators do not depend on the order of layers, so those that are alike are counted together.
    pairs = sorted(zip(attentions, mlps, strict=True), key=repr)
    groups = tuple(Layers(len(list(alike)), *pair) for pair, alike in groupby(pairs))
    return Model(
        hidden,
        config.size("vocab_size"),
        groups,
        is_tied=bool(config.get("tie_word_embeddings")),
        precision=precision_of(config.get("quantization_config")),
        longest_tokens=_longest_tokens(config),
    )


def _longest_tokens(config: _Config) -> int | None:
    """As vLLM derives its largest ``max_model_len``: where positions are scaled for longer texts, the scaled ones."""
    said = [value for name in _LONGEST if isinstance(value := config.values.get(name), int) and value > 0]
    if not said:
        return None
    scaling = config.get("rope_scaling", "rope_parameters")
    if not isinstance(scaling, Mapping) or scaling.get("rope_type", scaling.get("type", "default")) in _NOT_LONGER:
        return min(said)
    original = scaling.get("original_max_position_embeddings", min(said))
    return int(original * scaling.get("factor", 1.0))


def _attentions(config: _Config, hidden: int, count: int) -> list[Attention]:
    heads = config.size("num_attention_heads", "n_head")
    if config.get("kv_lora_rank") is not None:
        latent = LatentAttention(
            heads,
            config.size("q_lora_rank") if config.get("q_lora_rank") is not None else None,
            *(config.size(key) for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")),
        )
        return [latent] * count
    head_size = config.get("head_dim")
    if head_size is None and hidden % heads:
        raise ConfigError(f"is missing, and hidden_size {hidden} is no multiple of {heads} heads", "head_dim")
    head_size = config.size("head_dim", default=hidden // heads)
    kv_heads = config.size("num_key_value_heads", "num_kv_heads", default=heads)
    return [GroupedAttention(heads, kv_heads, head_size, window) for window in _windows(config, count)]


def _windows(config: _Config, count: int) -> list[int | None]:
    """Of each layer."""
    if config.get("sliding_window") is None or config.get("use_sliding_window") is False:
        return [None] * count
    window = config.size("sliding_window")
    types = config.get("layer_types")
    if types is not None:
        known = {"sliding_attention": window, "full_attention": None}
        if len(types) != count or not set(types) <= set(known):
            raise ConfigError(f"must name sliding_attention or full_attention for each of {count} layers", "layer_types")
        return [known[kind] for kind in types]
    if config.get("sliding_window_pattern") is not None:
        every = config.size("sliding_window_pattern")
        return [None if (index + 1) % every == 0 else window for index in range(count)]
    first = config.size("max_window_layers") if config.get("use_sliding_window") else 0
    return [window if index >= first else None for index in range(count)]


def _mlps(config: _Config, hidden: int, count: int) -> list[Mlp | Experts]:
    """Of each layer."""
    kind = config.get("model_type")
    width = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
    experts = config.get("num_experts", "num_local_experts", "n_routed_experts")
    if experts is None:
        # BLOOM's configuration leaves it out.
        intermediate = config.size(*width, default=4 * hidden if kind == "bloom" else None)
        return [Mlp(intermediate, is_gated=kind not in _UNGATED)] * count
    own = config.size("moe_intermediate_size", *width)
    shared = config.size("shared_expert_intermediate_size", default=own * (config.get("n_shared_experts") or 0))
    routed = Experts(
        config.size("num_experts", "num_local_experts", "n_routed_experts"),
        config.size("num_experts_per_tok", "experts_per_token", "top_k_experts"),
        own,
        shared,
        config.size(*width, default=own),
    )
    first, only = config.get("first_k_dense_replace") or 0, config.get("mlp_only_layers") or []
    every = config.size("decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step", default=1)
    sparse = [index >= first and index not in only and (index + 1) % every == 0 for index in range(count)]
    if all(sparse):
        return [routed] * count
    dense = Mlp(config.size("intermediate_size_mlp", *width))
    return [routed if is_sparse else dense for is_sparse in sparse]
