"""Operators of attention in which several query heads share keys, or none do."""

from __future__ import annotations

from engine.performance.roofline.model import GroupedAttention
from engine.performance.roofline.op import Kind, Op
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Step


def grouped_attention(setup: Setup, attention: GroupedAttention, count: int, step: Step, tokens: float) -> list[Op]:
    """Of one GPU, for ``count`` layers."""
    hidden, tp = setup.model.hidden, setup.layout.tp
    query = attention.heads * attention.head_size / tp
    kv = setup.layout.kv_heads(attention) * attention.head_size
    ops = [
        setup.linear("q_proj", count, hidden, query, tokens),
        setup.linear_to_cache("k_proj", count, hidden, kv, tokens),
        setup.linear_to_cache("v_proj", count, hidden, kv, tokens),
        setup.linear("out_proj", count, query, hidden, tokens),
    ]
    if setup.rules.rope:
        ops.append(setup.elementwise("rope", count, 3.0 * tokens * (query + kv), tokens * (query + kv), tokens * (query + kv)))
    if step.chunks:
        pairs = read = queries = 0.0
        for chunk in step.chunks:
            pairs += chunk.count * chunk.pairs(attention.window, setup.rules.causal)
            read += chunk.count * chunk.read(attention.window)
            queries += chunk.count * chunk.new_tokens
        ops += _scores(setup, attention, Kind.PREFILL_ATTENTION, count, queries, pairs, read)
    if step.batch:
        read = step.decoded_read(attention.window)
        ops += _scores(setup, attention, Kind.DECODE_ATTENTION, count, step.batch, read, read)
    return ops


def _scores(setup: Setup, attention: GroupedAttention, kind: Kind, count: int, queries: float, pairs: float, read: float) -> list[Op]:
    """``pairs`` of a query and a key, for ``queries`` and keys and values of ``read`` tokens."""
    bits, size = setup.attention_bits, attention.head_size
    heads = attention.heads / setup.split
    kv_heads = setup.layout.kv_heads(attention) if setup.split > 1 else attention.kv_heads
    product, softmax = 2.0 * pairs * size * heads, 5.0 * pairs * heads
    keys = read * size * kv_heads * setup.kv
    outputs = queries * size * heads * setup.stream
    query_heads = heads if setup.rules.query_heads or kind is Kind.DECODE_ATTENTION else kv_heads
    loads = queries * size * query_heads * setup.stream
    if setup.rules.fused_attention:
        return [Op("attention", kind, bits, count, 2.0 * product + softmax, 0.0, loads, outputs, 2.0 * keys)]
    scores = pairs * heads * setup.stream
    return [
        Op("qk_matmul", kind, bits, count, product, 0.0, loads, scores, keys),
        Op("sv_matmul", kind, bits, count, product, 0.0, scores, outputs, keys),
        Op("softmax", Kind.ELEMENTWISE, bits, count, softmax, 0.0, scores, scores),
    ]
