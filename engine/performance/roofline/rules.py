"""What is counted, and how: LLM-Viewer's way, and each correction of it by itself."""

from __future__ import annotations

import msgspec

from engine.performance.roofline.model import Experts, GroupedAttention, Layers, Mlp, Model


class Rules(msgspec.Struct, frozen=True):
    """All off is LLM-Viewer as published with arXiv 2402.16363; all on is what Baton reckons with."""

    lm_head: bool = False
    """The output head multiplies and adds (two operations per weight), for every sequence's activations. There: one, and one's."""
    query_heads: bool = False
    """Prefill reads the queries of all heads. There: of as many as there are KV heads."""
    causal: bool = False
    """A prompt's token attends to what is before it, which is about half. There: to the whole prompt."""
    activation_width: bool = False
    """The MLP's activation works on the intermediate size. There: on the hidden size."""
    parallel: bool = False
    """Attention, output head and embedding are split over GPUs as linear layers are. There: every GPU does all of them."""
    exchanges: bool = False
    """GPUs that share layers or experts, or hand activations on, need time for it. There: none."""
    experts: bool = False
    """A token goes to its experts only, and only the experts that are needed are read. There: an MLP of ``intermediate_size``."""
    latent: bool = False
    """Latent attention is computed as it is. There: as if every head had its own keys."""
    head_size: bool = False
    """A head has the size that the model says. There: hidden size / heads."""
    window: bool = False
    """A sliding window bounds what is attended to and kept. There: all is."""
    rope: bool = False
    """Queries and keys are rotated. There: no operator."""
    embedding: bool = False
    """Every token's vector is looked up, and the table needs memory. There: neither."""
    fused_attention: bool = False
    """Scores never leave the chip (FlashAttention). There: written, read, written and read again."""
    wide_stream: bool = False
    """What flows between layers has 16 bits, however few the linear layers read. There: as few."""


REFERENCE = Rules()
CORRECTED = Rules(*[True] * len(Rules.__struct_fields__))


def as_counted(model: Model, rules: Rules) -> Model:
    """The model that is reckoned with where rules for kinds of layers are off."""
    return msgspec.structs.replace(model, layers=tuple(_layers(group, model.hidden, rules) for group in model.layers))


def _layers(group: Layers, hidden: int, rules: Rules) -> Layers:
    attention, mlp = group.attention, group.mlp
    if isinstance(mlp, Experts) and not rules.experts:
        mlp = Mlp(mlp.unaware_intermediate)
    if not isinstance(attention, GroupedAttention):
        if rules.latent:
            return Layers(group.count, attention, mlp)
        attention = GroupedAttention(attention.heads, attention.heads, hidden // attention.heads)
    changes: dict[str, int | None] = {}
    if not rules.head_size:
        changes["head_size"] = hidden // attention.heads
    if not rules.window:
        changes["window"] = None
    return Layers(group.count, msgspec.structs.replace(attention, **changes), mlp)
