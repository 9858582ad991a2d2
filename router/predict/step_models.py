"""Step times of every worker, also of those that have not told theirs, or only half: filled up from others' and from priors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from core.ids import WorkerId
from core.step_model import StepModel
from core.worker import Role

DEFAULT = StepModel(
    prefill_base_s=0.003,
    prefill_token_s=1.9e-5,
    prefill_square_s=4.5e-10,
    decode_base_s=0.0063,
    decode_request_s=1.2e-5,
    decode_context_s=4.1e-8,
)
"""Llama-3.1-8B on one H100, fitted to AIConfigurator 0.12's tables (Apache-2.0): right within a factor of ten for most, and only
used until the first worker has made some steps."""

_Side = tuple[float, ...]
_NOTHING: _Side = (0.0, 0.0, 0.0)
_FRESHNESS = 8
"""What is filled up is filled up anew when one in so many workers has told new step times."""


@dataclass(frozen=True, slots=True)
class _Known:
    role: Role
    step: StepModel | None
    model: StepModel
    generation: int
    """The one it was filled up in; -1: nothing had to be."""


class StepModels:
    """Sides (prefill, decode) are looked up one by one: the worker's own, else the mean of its pool, else the pool's prior, else the
    mean of the other pool, as engines are usually equal, else ``DEFAULT``."""

    def __init__(self, priors: Mapping[Role, StepModel] | None = None) -> None:
        self._priors = {role: _sides(model) for role, model in (priors or {}).items()}
        self._known: dict[WorkerId, _Known] = {}
        self._sums = {(role, side): [0, *_NOTHING] for role in Role for side in (0, 1)}
        """Per pool and side: how many workers have told theirs, and the sums of the three terms."""
        self._generation = 0
        self._changes = 0

    def of(self, worker: WorkerId, role: Role, step: StepModel | None) -> StepModel:
        """``step`` is what the worker told last; see ``WorkerLoad.step``. Asked for every candidate of every decision."""
        known = self._known.get(worker)
        if known is not None and known.step is step and known.role is role and known.generation in (-1, self._generation):
            return known.model
        return self._learn(worker, role, step, known)

    def forget(self, worker: WorkerId) -> None:
        """The worker is no member any more."""
        known = self._known.pop(worker, None)
        if known is not None:
            self._count(known.role, known.step, -1)

    def _learn(self, worker: WorkerId, role: Role, step: StepModel | None, known: _Known | None) -> StepModel:
        if known is None or known.step != step or known.role is not role:  # each message brings an object of its own, mostly an equal one
            if known is not None:
                self._count(known.role, known.step, -1)
            self._count(role, step, 1)
            self._changes += 1
            if self._changes * _FRESHNESS >= len(self._known):
                self._changes = 0
                self._generation += 1
        own = _sides(step) if step is not None else (_NOTHING, _NOTHING)
        if all(map(any, own)):
            assert step is not None
            self._known[worker] = _Known(role, step, step, -1)
            return step
        prefill, decode = (terms if any(terms) else self._filled(role, side) for side, terms in enumerate(own))
        model = StepModel(*prefill, *decode)
        self._known[worker] = _Known(role, step, model, self._generation)
        return model

    def _filled(self, role: Role, side: int) -> _Side:
        [other] = (another for another in Role if another is not role)
        prior = self._priors.get(role, (_NOTHING, _NOTHING))[side]
        found = (terms for terms in (self._mean(role, side), prior, self._mean(other, side)) if any(terms))
        return next(found, _sides(DEFAULT)[side])

    def _mean(self, role: Role, side: int) -> _Side:
        count, *sums = self._sums[role, side]
        return tuple(total / count for total in sums) if count else _NOTHING

    def _count(self, role: Role, step: StepModel | None, sign: int) -> None:
        for side, terms in enumerate(_sides(step)) if step is not None else ():
            if any(terms):
                count, *sums = self._sums[role, side]
                # What was added may not come out quite even again.
                self._sums[role, side] = [count + sign, *(max(0.0, old + sign * new) for old, new in zip(sums, terms, strict=True))]


def _sides(model: StepModel) -> tuple[_Side, _Side]:
    """The terms of steps with prompts, and of those with decodes. A side that is all zero is not known."""
    terms = msgspec.structs.astuple(model)
    return terms[:3], terms[3:]
