"""What LoRA adapters take of a GPU's memory: vLLM sets it aside at the start, for every layer that an adapter might change."""

from __future__ import annotations

from engine.performance.roofline.model import Attention, Experts, GroupedAttention, Mlp
from engine.performance.roofline.setup import Setup


def adapter_bytes(setup: Setup, rank: int, value_bytes: float = 2.0, *, fully_sharded: bool = False) -> float:
    """Of the room for one adapter of that rank, on the fullest GPU. Two narrow matrices for each linear layer, of which tensor parallelism
    splits the one whose long side it splits; with ``fully_sharded`` the other one, too."""
    sizes = _Sizes(setup, fully_sharded)
    layers = sum(group.count * (sizes.attention(group.attention) + sizes.mlp(group.mlp)) for group in setup.model.layers)
    fullest = -(-setup.model.layer_count // setup.layout.pp) / setup.model.layer_count
    tables = 1 if setup.layout.pp > 1 else 2  # embedding and head, each whole on its GPUs
    return (layers * fullest + tables * (setup.model.vocabulary + setup.model.hidden)) * rank * value_bytes


class _Sizes:
    """Values per rank."""

    def __init__(self, setup: Setup, fully_sharded: bool) -> None:
        self._setup = setup
        self._tp = setup.layout.tp
        self._other = self._tp if fully_sharded else 1

    def columns(self, width: float, heights: float, slices: int = 1) -> float:
        """Of a layer whose output is split: ``heights`` is on this GPU, of all ``slices`` together."""
        return slices * width / self._other + heights

    def rows(self, width: float, height: float) -> float:
        """Of one whose input is split: ``width`` is on this GPU."""
        return width + height / self._other

    def attention(self, kind: Attention) -> float:
        hidden, heads = self._setup.model.hidden, kind.heads / self._tp
        if isinstance(kind, GroupedAttention):
            own = kind.head_size * (heads + 2 * self._setup.layout.kv_heads(kind))
            return self.columns(hidden, own, 3) + self.rows(heads * kind.head_size, hidden)
        queries = heads * kind.query_size
        narrowed = 0 if kind.query_rank is None else hidden + kind.query_rank
        made = self.columns(hidden if kind.query_rank is None else kind.query_rank, queries)
        keys = hidden + kind.cached_size + self.columns(kind.kv_rank, heads * (kind.nope_size + kind.value_size))
        return narrowed + made + keys + self.rows(heads * kind.value_size, hidden)

    def mlp(self, kind: Mlp | Experts) -> float:
        hidden = self._setup.model.hidden
        if isinstance(kind, Mlp):
            return self._between(kind.intermediate / self._tp, kind.matrices - 1)
        ep = self._setup.layout.ep
        experts, width = (kind.experts / ep, kind.intermediate) if ep > 1 else (kind.experts, kind.intermediate / self._tp)
        shared = self._between(kind.shared_intermediate / self._tp, 2) if kind.shared_intermediate else 0.0
        return experts * self._between(width, 2) + shared + hidden + kind.experts

    def _between(self, width: float, up: int) -> float:
        hidden = self._setup.model.hidden
        return self.columns(hidden, up * width, up) + self.rows(width, hidden)
