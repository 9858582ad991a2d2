"""Who keeps the budget that several models share: a Serve deployment of one replica, asked by every model's controller before each plan.

All it knows is on the notice board, so that another replica goes on where it was; and what it has granted is what controllers go by, so
that nothing grows while it is away.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from ray import serve

from autoscaler.shared_budget import Claim, Entry, Grant, Ledger, Terms
from cluster import board
from core.application_config import model_app


class Budget:
    """``terms`` by the models' served names."""

    def __init__(self, budget_gpus: float, terms: Mapping[str, Terms]) -> None:
        self._app = str(serve.get_replica_context().app_name)
        kept = {model: board.kept_entry(model_app(self._app, model)) for model in terms}
        known = {model: msgspec.json.decode(entry, type=Entry) for model, entry in kept.items() if entry is not None}
        self._ledger = Ledger.opened(budget_gpus, terms, known)

    async def claim(self, model: str, claim: Claim) -> Grant:
        """Written down before it is answered: what nobody remembers is not granted."""
        ledger, grant = self._ledger.claimed(model, claim)
        board.keep_entry(model_app(self._app, model), msgspec.json.encode(ledger.entries[model]))
        self._ledger = ledger
        return grant
