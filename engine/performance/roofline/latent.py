"""Operators of latent attention (MLA): prompts make every head's keys from the latent vectors, decoding works on these themselves."""

from __future__ import annotations

from engine.performance.roofline.model import LatentAttention
from engine.performance.roofline.op import Kind, Op
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Step


def latent_attention(setup: Setup, attention: LatentAttention, count: int, step: Step, tokens: float) -> list[Op]:
    """Of one GPU, for ``count`` layers."""
    hidden, tp = setup.model.hidden, setup.layout.tp
    heads = attention.heads / tp
    query = heads * attention.query_size
    ops = []
    if attention.query_rank is None:
        ops.append(setup.linear("q_proj", count, hidden, query, tokens))
    else:
        # The way down is not split: its result is small and all GPUs need it.
        ops.append(setup.linear("q_a_proj", count, hidden, attention.query_rank, tokens))
        ops.append(setup.linear("q_b_proj", count, attention.query_rank, query, tokens))
    ops.append(setup.linear_to_cache("kv_a_proj", count, hidden, attention.cached_size, tokens))
    ops.append(setup.linear("out_proj", count, heads * attention.value_size, hidden, tokens))
    if setup.rules.rope:
        rotated = tokens * (heads + 1) * attention.rope_size
        ops.append(setup.elementwise("rope", count, 3.0 * rotated, rotated, rotated))
    if step.chunks:
        ops += _prefill(setup, attention, count, step)
    if step.batch:
        ops += _decode(setup, attention, count, step)
    return ops


def _prefill(setup: Setup, attention: LatentAttention, count: int, step: Step) -> list[Op]:
    """Keys and values of every head are made for all tokens that are read, the cached ones too."""
    pairs = read = queries = 0.0
    for chunk in step.chunks:
        pairs += chunk.count * chunk.pairs(None, setup.rules.causal)
        read += chunk.count * chunk.read(None)
        queries += chunk.count * chunk.new_tokens
    heads = attention.heads / setup.layout.tp
    query, value = attention.query_size, attention.value_size
    return [
        setup.linear("kv_b_proj", count, attention.kv_rank, heads * (attention.nope_size + value), read),
        Op(
            "attention",
            Kind.PREFILL_ATTENTION,
            setup.attention_bits,
            count,
            heads * pairs * (2.0 * (query + value) + 5.0),
            0.0,
            heads * setup.stream * (queries * query + read * (query + value)),
            heads * setup.stream * queries * value,
            read * attention.cached_size * setup.kv,
        ),
    ]


def _decode(setup: Setup, attention: LatentAttention, count: int, step: Step) -> list[Op]:
    """The matrices that would make keys and values are applied to queries and results instead: scores need the latent vectors alone,
    which all heads share."""
    heads, rank, batch, read = attention.heads / setup.layout.tp, attention.kv_rank, step.batch, step.context_tokens
    flops = heads * read * (2.0 * attention.cached_size + 2.0 * rank + 5.0)
    loads, stores = batch * heads * attention.cached_size * setup.stream, batch * heads * rank * setup.stream
    cached = read * attention.cached_size * setup.kv
    return [
        _per_head(setup, "k_absorb", count, heads, attention.nope_size, rank, batch),
        Op("attention", Kind.DECODE_ATTENTION, setup.attention_bits, count, flops, 0.0, loads, stores, cached),
        _per_head(setup, "v_absorb", count, heads, rank, attention.value_size, batch),
    ]


def _per_head(setup: Setup, name: str, count: int, heads: float, width: int, height: int, tokens: float) -> Op:
    """Every head has a matrix of its own."""
    loads, stores = heads * width * tokens * setup.stream, heads * height * tokens * setup.stream
    weights = heads * width * height * setup.weight
    return Op(name, Kind.LINEAR, setup.linear_bits, count, 2.0 * heads * width * height * tokens, weights, loads, stores)
