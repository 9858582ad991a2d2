"""All operators and exchanges of a step."""

from __future__ import annotations

from engine.performance.roofline.attention import grouped_attention
from engine.performance.roofline.latent import latent_attention
from engine.performance.roofline.mlp import experts, mlp
from engine.performance.roofline.model import Attention, Experts, GroupedAttention, Mlp
from engine.performance.roofline.op import Exchange, Kind, Op
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Step


def operators(setup: Setup, step: Step) -> list[Op]:
    """What a GPU of each stage computes, all stages together."""
    tokens = step.tokens
    values, layers = tokens * setup.model.hidden, setup.model.layer_count
    ops = [setup.elementwise(name, layers, 7.0 * values, values, values) for name in ("attn_norm", "mlp_norm")]
    ops += [setup.elementwise(name, layers, values, values, values) for name in ("attn_add", "mlp_add")]
    for attention, count in setup.attentions.items():
        ops += attention_operators(setup, attention, count, step, tokens)
    for part, count in setup.mlps.items():
        ops += mlp_operators(setup, part, count, tokens)
    if setup.rules.embedding:
        ops.append(Op("embedding", Kind.ELEMENTWISE, 16, 1, 0.0, values * setup.head, 0.0, values * setup.stream))
    ops.append(_head(setup, step))
    return ops


def exchanges(setup: Setup, step: Step) -> list[Exchange]:
    """What GPUs pass on to each other."""
    layout, model, tokens = setup.layout, setup.model, step.tokens
    if not setup.rules.exchanges or layout.gpus == 1:
        return []
    stream = tokens * model.hidden * setup.stream
    found = []
    if layout.tp > 1:
        found.append(Exchange.all_reduce("attention_sum", layout.tp, model.layer_count, stream))
    for part, count in setup.mlps.items():
        if isinstance(part, Experts) and layout.groups > 1:
            # Each of the group's GPUs sends its share of the tokens to their experts, and results back.
            copies = tokens / layout.tp * part.per_token * model.hidden * (layout.ep - 1) / layout.ep
            found.append(Exchange("dispatch", layout.ep, count, copies * setup.expert_activation))
            found.append(Exchange("combine", layout.ep, count, copies * setup.stream))
        elif layout.tp > 1:
            found.append(Exchange.all_reduce("mlp_sum", layout.tp, count, stream))
    if layout.tp > 1:
        found.append(Exchange.all_reduce("embedding_sum", layout.tp, 1, stream))
        logits = step.sequences * model.vocabulary * setup.stream
        found.append(Exchange("logits", layout.tp, 1, (layout.tp - 1) / layout.tp * logits))
    if layout.pp > 1:
        found.append(Exchange("next_stage", layout.gpus, layout.pp - 1, stream))
    return found


def attention_operators(setup: Setup, attention: Attention, count: int, step: Step, tokens: float) -> list[Op]:
    """Of ``count`` layers, for a step of ``tokens`` tokens."""
    if isinstance(attention, GroupedAttention):
        return grouped_attention(setup, attention, count, step, tokens)
    return latent_attention(setup, attention, count, step, tokens)


def mlp_operators(setup: Setup, part: Mlp | Experts, count: int, tokens: float) -> list[Op]:
    """Of ``count`` layers."""
    return mlp(setup, part, count, tokens) if isinstance(part, Mlp) else experts(setup, part, count, tokens)


def _head(setup: Setup, step: Step) -> Op:
    hidden, sequences = setup.model.hidden, step.sequences
    height = setup.model.vocabulary / setup.split
    is_right = setup.rules.lm_head
    return Op(
        "lm_head",
        Kind.LINEAR,
        setup.head_bits,
        1,
        (2.0 if is_right else 1.0) * sequences * hidden * height,
        hidden * height * setup.head,
        (sequences if is_right else 1.0) * hidden * setup.stream,
        (sequences if is_right else 1.0) * height * setup.stream,
    )
