"""What of a GPU's memory goes where, and how much is left for KV."""

from __future__ import annotations

import math

import msgspec

from engine.performance.roofline.hardware import Hardware
from engine.performance.roofline.model import Attention, Experts, GroupedAttention, LatentAttention, Mlp
from engine.performance.roofline.op import Op
from engine.performance.roofline.operators import attention_operators, mlp_operators
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Step

_UTILISATION = 0.9
"""Of the memory that an engine takes at all; vLLM's ``gpu_memory_utilization``."""
_RESERVED_BYTES = 2.5e9
"""Assumed for what is not tensors of the model: CUDA context, kernels, graphs, buffers for exchanges."""


class Memory(msgspec.Struct, frozen=True):
    """Of the fullest GPU of a layout."""

    usable_bytes: float
    weight_bytes: float
    activation_bytes: float
    reserved_bytes: float

    @property
    def kv_bytes(self) -> float:
        """Left for KV; below 0: the model does not fit."""
        return self.usable_bytes - self.weight_bytes - self.activation_bytes - self.reserved_bytes

    @property
    def fits(self) -> bool:
        return self.kv_bytes > 0


def memory(
    setup: Setup, hardware: Hardware, step: Step, utilisation: float = _UTILISATION, reserved_bytes: float = _RESERVED_BYTES
) -> Memory:
    """For steps as large as ``step``: activations are those of the layer that writes most, as a layer's are freed after it."""
    return Memory(hardware.memory_bytes * utilisation, weight_bytes(setup), activation_bytes(setup, step), reserved_bytes)


def weight_bytes(setup: Setup) -> float:
    """On the fullest GPU: stages get whole layers, the embedding is on the first and the head on the last of them."""
    layers = sum(group.count * _layer_bytes(setup, group.attention, group.mlp) for group in setup.model.layers)
    fullest = -(-setup.model.layer_count // setup.layout.pp) / setup.model.layer_count
    table = setup.model.vocabulary / setup.split * setup.model.hidden * setup.head
    if not setup.rules.embedding:
        return layers * fullest  # LLM-Viewer counts layers alone
    tables = 1 if setup.model.is_tied or setup.layout.pp > 1 else 2
    return layers * fullest + tables * table


def activation_bytes(setup: Setup, step: Step) -> float:
    """All that one layer writes, KV apart: more than is alive at once, so on the safe side."""
    tokens = step.tokens
    attention = max(_stored(attention_operators(setup, kind, 1, step, tokens)) for kind in setup.attentions)
    mlp = max(_stored(mlp_operators(setup, kind, 1, tokens)) for kind in setup.mlps)
    return attention + mlp + 4.0 * tokens * setup.model.hidden * setup.stream  # two norms, two additions


def kv_bytes_per_token(setup: Setup) -> float:
    """Of a whole engine's KV, each value counted once, for a token that no window has passed: what a hand-over has to move."""
    return sum(group.count * _cached_size(group.attention) * setup.kv for group in setup.model.layers)


def kv_bytes_per_sequence(setup: Setup, context_tokens: float) -> float:
    """On the fullest GPU, of one request: windows bound what is kept, and GPUs that share a head each have it."""
    fullest = -(-setup.model.layer_count // setup.layout.pp) / setup.model.layer_count
    total = 0.0
    for group in setup.model.layers:
        window = group.attention.window if isinstance(group.attention, GroupedAttention) else None
        kept = context_tokens if window is None else min(context_tokens, window)
        total += group.count * setup.layout.cached_size(group.attention) * setup.kv * kept
    return total * fullest


def largest_batch(setup: Setup, found: Memory, context_tokens: float) -> int:
    """Requests of that context whose KV fits at once, on each group of GPUs that decodes for itself."""
    return max(0, math.floor(found.kv_bytes / kv_bytes_per_sequence(setup, context_tokens)))


def _stored(ops: list[Op]) -> float:
    return sum(op.store_bytes for op in ops)


def _cached_size(attention: Attention) -> int:
    if isinstance(attention, LatentAttention):
        return attention.cached_size
    return 2 * attention.kv_heads * attention.head_size


def _layer_bytes(setup: Setup, attention: Attention, mlp: Mlp | Experts) -> float:
    """Of one layer on one GPU."""
    return _attention_weights(setup, attention) * setup.weight + _mlp_bytes(setup, mlp)


def _attention_weights(setup: Setup, attention: Attention) -> float:
    hidden, tp = setup.model.hidden, setup.layout.tp
    if isinstance(attention, GroupedAttention):
        return hidden * attention.head_size * 2 * (attention.heads / tp + setup.layout.kv_heads(attention))
    heads, rank = attention.heads / tp, attention.query_rank
    queries = hidden * heads * attention.query_size if rank is None else rank * (hidden + heads * attention.query_size)
    keys = hidden * attention.cached_size + attention.kv_rank * heads * (attention.nope_size + attention.value_size)
    return queries + keys + heads * attention.value_size * hidden


def _mlp_bytes(setup: Setup, part: Mlp | Experts) -> float:
    hidden, layout = setup.model.hidden, setup.layout
    if isinstance(part, Mlp):
        return part.matrices * hidden * part.intermediate / layout.tp * setup.weight
    shares = layout.ep if layout.ep > 1 else layout.tp
    routed = 3.0 * part.experts * hidden * part.intermediate / shares * setup.expert
    shared = 3.0 * hidden * part.shared_intermediate / layout.tp * setup.weight
    return routed + shared + hidden * part.experts * setup.weight
