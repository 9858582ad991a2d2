"""Words of the decision: what is to be placed, where it could go, what was chosen and why."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.ids import RequestId, WorkerId
from core.worker import WorkerCard, WorkerLoad


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as the balancer sees it."""

    request: RequestId
    prompt_tokens: int
    max_tokens: int
    splittable: bool
    excluded: frozenset[WorkerId] = frozenset()
    """Workers that refused it or died under it."""
    keeper: WorkerId | None = None
    """Where its prompt is computed and kept already: only a decode worker is to be chosen."""
    urgent: bool = False
    """Its client has tokens already and waits for more: a decode worker may compute the prompt itself, if that is sooner."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a request's prompt is computed and where its tokens are made; the same worker twice: not split."""

    prefill: WorkerId
    decode: WorkerId

    @property
    def is_split(self) -> bool:
        return self.prefill != self.decode


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as this router sees it now: what it reported, and what this router has sent it since and before."""

    card: WorkerCard
    load: WorkerLoad
    outstanding_prefill_tokens: int = 0
    outstanding_decode_tokens: int = 0
    legs: int = 0
    """Legs it has of this router, those that are planned included."""
    pending_tokens: int = 0
    """Context of those legs that no report of the worker can show yet: planned, or without a token so far."""
    max_prefill_tokens: int = sys.maxsize
    """What the worker takes on before it refuses; see ``PoolConfig``."""
    headroom_tokens: int = 0
    refused: str = ""
    """Why it refused something since it was last heard to have more room; empty: it did not."""


View = Mapping[WorkerId, WorkerView]


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate with its predicted cost (any unit, smaller is better, one policy's costs compare) and why."""

    plan: Plan
    cost: float
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What was chosen among what, and why the rest of the cluster was no candidate."""

    chosen: Scored | None
    candidates: Sequence[Scored]
    rejected: Mapping[WorkerId, str]
    reason: str
    hopeless: bool = False
    """Nobody will ever take it: waiting is pointless."""
