"""Step times of a worker that is slower than it should be: a GPU that throttles, a neighbour that takes its memory's bandwidth."""

from __future__ import annotations

import msgspec

from core.step_model import StepModel, StepWork
from engine.sim_leap import StepTime


class SlowedTime(msgspec.Struct, frozen=True):
    """Every step takes ``factor`` times as long as ``usual``."""

    usual: StepTime
    factor: float

    def step_s(self, work: StepWork) -> float:
        return self.factor * self.usual.step_s(work)


def slowed(usual: StepTime, factor: float) -> StepTime:
    """As ``SlowedTime``; of six coefficients, six others, which leaps know exactly."""
    return scaled(usual, factor) if isinstance(usual, StepModel) else SlowedTime(usual, factor)


def scaled(step: StepModel, factor: float) -> StepModel:
    """All six coefficients so many times as large."""
    return StepModel(*(factor * each for each in msgspec.structs.astuple(step)))
