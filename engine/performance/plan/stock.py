"""How many GPUs there are to make workers of."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.performance.plan.engine_kind import EngineKind


class Stock(msgspec.Struct, frozen=True):
    """``gpus`` in all, and of some kinds no more than ``of`` says."""

    gpus: int
    of: Mapping[str, int] = {}

    def workers(self, kind: EngineKind, beside: int = 0, beside_kind: EngineKind | None = None) -> int:
        """The most of ``kind`` that there can be beside so many of another."""
        taken = beside * beside_kind.gpus if beside_kind is not None else 0
        left = self.gpus - taken
        if (own := self.of.get(kind.gpu)) is not None:
            left = min(left, own - (taken if beside_kind is not None and beside_kind.gpu == kind.gpu else 0))
        return max(0, left // kind.gpus)
