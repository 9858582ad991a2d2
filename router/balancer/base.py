"""The policy interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

from core.ids import WorkerId
from core.step_model import StepModel
from core.worker import Role
from router.balancer.candidates import Alone, Candidates
from router.plan import Ask, Plan, Scored, View, WorkerView
from router.predict.links import Link

KEPT = 8
"""Candidates that are written down with a decision: the cheapest. No policy need say what more of them cost."""


class Predictions(Protocol):
    """What policies may know of the future; ``router.predict`` learns it."""

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes that a token's KV takes on the wire."""

    def step_model(self, seen: WorkerView) -> StepModel:
        """How long this worker's steps take."""

    def link(self, prefill: WorkerId, decode: WorkerId) -> Link:
        """How long hand-offs between the two take."""

    def ttft_late_s(self, role: Role, promised_s: float) -> float:
        """By how much first tokens of workers with this role may well be later than predicted, if so much is promised."""

    def slower_alone(self, role: Role, ratio: float, now: float) -> tuple[int, int]:
        """How many answers, of how many lately made by one worker of this role alone, took more than ``ratio`` times the predicted
        time per token."""


class Shortlist(NamedTuple):
    """What a policy says of the plans there are."""

    scored: list[Scored]
    """The cheapest among them; no others need be here."""
    priced: int
    """Plans that were compared, these included."""


class Policy(ABC):
    """Prices candidates. Pure but for what it remembers of its own decisions; never waits."""

    alone: ClassVar[Alone] = Alone.NEVER
    """Whom it considers for a whole request beside the pairs."""

    binds_late: ClassVar[bool] = False
    """Whether it is asked again who decodes when the prompt is computed, where other routers' work has come in between."""

    @abstractmethod
    def score(self, ask: Ask, candidates: Sequence[Plan], view: View) -> list[Scored]:
        """One cost and reason per candidate, in the same order. ``candidates`` is never empty; all its workers are in
        ``view``. The result is valid for this moment only. Raises nothing."""

    def decide(self, ask: Ask, candidates: Candidates, view: View) -> Shortlist:
        """Some or all of ``candidates``, which are at least one, priced. A policy that need not look at all says so by this."""
        plans = candidates.plans()
        return Shortlist(self.score(ask, plans, view), len(plans))

    def chosen(self, ask: Ask, best: Scored) -> None:  # noqa: B027 - most policies keep no memory
        """Told which candidate was taken and is followed."""

    def forget(self, worker: WorkerId) -> None:  # noqa: B027 - likewise
        """The worker is no member any more."""
