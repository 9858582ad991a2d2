"""What operators need to know besides the step: the model, how it is split, in which bits, and what is counted."""

from __future__ import annotations

from core.errors import ConfigError
from engine.performance.roofline.layout import Layout
from engine.performance.roofline.model import Attention, Experts, Mlp, Model
from engine.performance.roofline.op import Kind, Op
from engine.performance.roofline.precision import Precision
from engine.performance.roofline.rules import CORRECTED, Rules, as_counted


class Setup:
    """Bytes and bits that follow from a precision, once. Raises ConfigError where the layout does not suit the model."""

    __slots__ = (
        "activation",
        "attention_bits",
        "attentions",
        "embedding",
        "expert",
        "expert_activation",
        "expert_bits",
        "head",
        "head_bits",
        "kv",
        "layout",
        "linear_bits",
        "mlps",
        "model",
        "precision",
        "rules",
        "split",
        "stream",
        "weight",
    )

    def __init__(self, model: Model, layout: Layout, precision: Precision | None = None, rules: Rules = CORRECTED) -> None:
        """``precision`` None: as the model was published."""
        self.model, self.layout, self.rules = as_counted(model, rules), layout, rules
        layout.check(self.model)
        self.attentions: dict[Attention, int] = {}
        """Layers by their attention."""
        self.mlps: dict[Mlp | Experts, int] = {}
        """Layers by what follows it."""
        for group in self.model.layers:
            self.attentions[group.attention] = self.attentions.get(group.attention, 0) + group.count
            self.mlps[group.mlp] = self.mlps.get(group.mlp, 0) + group.count
        self.precision = precision = model.precision if precision is None else precision
        self.weight, self.expert, self.head = precision.weight_bits / 8, precision.of_experts / 8, precision.head_bits / 8
        self.activation, self.kv = precision.activation_bits / 8, precision.kv_bits / 8
        self.stream = 2.0 if rules.wide_stream else self.activation
        self.linear_bits = max(precision.weight_bits, precision.activation_bits)
        self.expert_bits = max(precision.of_experts, precision.into_experts)
        self.expert_activation = precision.into_experts / 8
        self.head_bits = max(precision.head_bits, precision.activation_bits)
        self.attention_bits = precision.attention_bits
        self.split = layout.tp if rules.parallel else 1
        """GPUs over which everything but linear layers is split."""
        if self.model.vocabulary < layout.tp:
            raise ConfigError("is more than the vocabulary", "tp")

    def linear(self, name: str, count: int, width: float, height: float, tokens: float) -> Op:
        """``width`` values in, ``height`` out, for each token."""
        return Op(
            name,
            Kind.LINEAR,
            self.linear_bits,
            count,
            2.0 * width * height * tokens,
            width * height * self.weight,
            width * tokens * self.activation,
            height * tokens * self.stream,
        )

    def linear_to_cache(self, name: str, count: int, width: float, height: float, tokens: float) -> Op:
        """The same, and what comes out is kept as KV."""
        weights, loads, stores = width * height * self.weight, width * tokens * self.activation, height * tokens * self.kv
        return Op(name, Kind.LINEAR, self.linear_bits, count, 2.0 * width * height * tokens, weights, loads, 0.0, 0.0, stores)

    def elementwise(self, name: str, count: int, flops: float, loaded: float, stored: float) -> Op:
        """``loaded`` and ``stored`` values, not bytes."""
        return Op(name, Kind.ELEMENTWISE, self.attention_bits, count, flops, 0.0, loaded * self.stream, stored * self.stream)
