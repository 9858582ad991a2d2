"""How long a worker's steps take, learnt from those it makes. Pure: it is told what happened, and when."""

from __future__ import annotations

import math
from collections import deque

import msgspec
import numpy as np

from cluster.step_equations import Matrix, StepEquations, expected_s, features
from core.step_model import StepModel, StepWork

_BATCH = 32
"""Samples that are learnt from at once: much cheaper than one by one, and seconds apart at most."""
_PATIENCE_S = 2.0
"""Fewer are, where steps are rare."""
_ENOUGH = 16
"""Steps with prompt tokens, or with decodes, that are learnt from at once when they are the first. One by one there would be
nothing to tell an outlier by."""
_MEMORY = 400
"""Steps of one kind after which an old one counts for a third."""
_SHORT_MEMORY = 50
"""The same while the model is off to one side by more than ``_OFF``: the machine is not what it was."""
_OFF = 0.05
_ERRORS = 64
_HUBER = 3.0
"""Times the usual error up to which a sample counts fully. Beyond, its pull no longer grows with the distance."""
_LEAST_ERROR = 0.01
_FAR = 4.0
"""Times its prediction up to which a step's weight goes by that. A model that says next to nothing of some steps would otherwise
give the first of them all the weight there is."""
_SHORTEST_S, _LONGEST_S = 1e-6, 1e4


class StepFit:
    """Weighted least squares with forgetting over relative errors, so that a short decode counts as much as a long prefill.

    Steps of the first ``warm_up_s`` and ``warm_up_steps`` of a life are not used: caches are cold and kernels compiled.
    """

    def __init__(self, prior: StepModel | None = None, warm_up_s: float = 5.0, warm_up_steps: int = 20) -> None:
        self._prior: Matrix = np.array(msgspec.structs.astuple(prior or StepModel()), dtype=np.float64)
        self._sides = prior is not None, prior is not None
        """Whether anything is known of steps with prompts, and of those with decodes."""
        self._warm_up_s = warm_up_s
        self._warm_up_steps = warm_up_steps
        self._steps = 0
        self._first_s = 0.0
        self._learnt_s = -math.inf
        self._pending: list[tuple[StepWork, float]] = []
        self._equations = StepEquations()
        self._coefficients = self._prior
        self._errors: deque[float] = deque(maxlen=_ERRORS)
        self._model: StepModel | None = None
        self._measured: StepModel | None = None

    @property
    def model(self) -> StepModel | None:
        """None until there were enough steps. Where there were none with prompts, or none with decodes, the prior's terms stand
        for those; without a prior they are all zero, which says that nothing is known."""
        return self._model

    @property
    def measured(self) -> StepModel | None:
        """The same without what only the prior says: zeros for a side of which there were too few steps."""
        return self._measured

    @property
    def error(self) -> float | None:
        """Median relative error of the newest predictions, each made before its step was learnt from."""
        return float(np.median(np.abs(self._errors))) if self._errors else None

    def observe(self, work: StepWork, seconds: float, now: float) -> None:
        """A step was made. What cannot be (no work, no time, hours, no number) is ignored."""
        if not (work.prefill_tokens or work.batch) or not _SHORTEST_S < seconds < _LONGEST_S:
            return
        if not self._steps:
            self._first_s = now
        self._steps += 1
        if self._steps <= self._warm_up_steps or now - self._first_s < self._warm_up_s:
            return
        self._pending.append((work, seconds))
        if now - self._learnt_s >= _PATIENCE_S or len(self._pending) >= _BATCH:
            self._learnt_s = now
            self._learn()

    def _learn(self) -> None:
        before = self._sides
        if not all(before):
            prefills, decodes = sum(work.prefill_tokens > 0 for work, _ in self._pending), sum(work.batch > 0 for work, _ in self._pending)
            self._sides = before[0] or prefills >= _ENOUGH, before[1] or decodes >= _ENOUGH
        ready = [sample for sample in self._pending if _within(sample[0], self._sides)]
        self._pending = [sample for sample in self._pending if not _within(sample[0], self._sides)]
        if not ready:
            return
        rows, seconds = np.array([features(work) for work, _ in ready], dtype=np.float64), np.array([seconds for _, seconds in ready])
        known = np.array([_within(work, before) for work, _ in ready])
        expected = np.where(known, self._expected(rows, seconds), seconds)
        self._errors.extend((seconds / expected - 1.0)[known])
        memory = _SHORT_MEMORY if self._errors and abs(float(np.median(self._errors))) > _OFF else _MEMORY
        old = self._equations
        for _ in range(1 if known.all() else 4):  # the first ones are judged by each other, in turns
            self._equations = old.plus(rows, seconds, self._weights(seconds, expected), memory)
            self._coefficients = self._equations.solve(self._prior)
            expected = self._expected(rows, seconds)
        self._publish()

    def _expected(self, rows: Matrix, seconds: Matrix) -> Matrix:
        """What the model says of each step; the step's own time where it says nothing."""
        said = expected_s(rows, self._coefficients)
        return np.where(said > 0.0, said, seconds)

    def _weights(self, seconds: Matrix, expected: Matrix) -> Matrix:
        off = np.abs(seconds / expected - 1.0)
        usual = self.error
        limit = _HUBER * max(_LEAST_ERROR, float(np.median(off)) if usual is None else usual)
        weights: Matrix = np.minimum(1.0, limit / np.maximum(off, limit)) / np.maximum(expected, seconds / _FAR) ** 2
        return weights

    def _publish(self) -> None:
        if self._equations.counts.sum() < _ENOUGH or not np.isfinite(self._coefficients).all():
            return
        terms = np.where(np.repeat(self._sides, 3), self._coefficients, 0.0)
        self._model = StepModel(*(float(term) for term in terms)) if terms.any() else None
        prefills, decodes, both = self._equations.counts
        own = np.where(np.repeat((prefills + both >= _ENOUGH, decodes + both >= _ENOUGH), 3), terms, 0.0)
        self._measured = StepModel(*(float(term) for term in own)) if own.any() else None


def _within(work: StepWork, sides: tuple[bool, bool]) -> bool:
    """Whether a step does nothing but what these stand for."""
    return (sides[0] or not work.prefill_tokens) and (sides[1] or not work.batch)
