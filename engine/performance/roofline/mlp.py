"""Operators between attentions: an MLP, or a router and experts."""

from __future__ import annotations

from engine.performance.roofline.model import Experts, Mlp
from engine.performance.roofline.op import Kind, Op
from engine.performance.roofline.setup import Setup


def mlp(setup: Setup, part: Mlp, count: int, tokens: float, prefix: str = "") -> list[Op]:
    """Of one GPU, for ``count`` layers."""
    hidden = setup.model.hidden
    width = part.intermediate / setup.layout.tp
    ups = ("gate_proj", "up_proj") if part.is_gated else ("up_proj",)
    active = tokens * (width if setup.rules.activation_width else hidden)
    return [
        *(setup.linear(prefix + name, count, hidden, width, tokens) for name in ups),
        setup.elementwise(f"{prefix}mlp_act", count, 2.0 * active, len(ups) * active, active),
        setup.linear(f"{prefix}down_proj", count, width, hidden, tokens),
    ]


def experts(setup: Setup, part: Experts, count: int, tokens: float) -> list[Op]:
    """Of one GPU, for ``count`` layers. Tokens are taken to be spread evenly over experts."""
    layout, hidden = setup.layout, setup.model.hidden
    together = tokens * layout.groups
    """Tokens of all groups that share the experts."""
    share = 1.0 / layout.ep if layout.ep > 1 else 1.0  # of the experts, on this GPU
    width = part.intermediate / (1 if layout.ep > 1 else layout.tp)
    rows = together * part.per_token * share
    read = part.touched(together) * share
    ops = [
        setup.linear("router", count, hidden, part.experts, tokens),
        _grouped(setup, "experts_up", count, hidden, 2.0 * width, rows, read),
        setup.elementwise("experts_act", count, 2.0 * rows * width, 2.0 * rows * width, rows * width),
        _grouped(setup, "experts_down", count, width, hidden, rows, read),
    ]
    if part.shared_intermediate:
        ops += mlp(setup, Mlp(part.shared_intermediate), count, tokens, "shared_")
    return ops


def _grouped(setup: Setup, name: str, count: int, width: float, height: float, rows: float, read: float) -> Op:
    """Products of ``rows`` tokens with the matrices of ``read`` experts."""
    weights = read * width * height * setup.expert
    loads, stores = rows * width * setup.expert_activation, rows * height * setup.stream
    return Op(name, Kind.EXPERTS, setup.expert_bits, count, 2.0 * width * height * rows, weights, loads, stores)
