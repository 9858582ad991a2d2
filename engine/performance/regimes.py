"""Step times as DistServe fits them: decode has other coefficients below a batch than from it on."""

from __future__ import annotations

import msgspec

from core.step_model import StepModel, StepWork


class TwoRegimeTime(msgspec.Struct, frozen=True):
    """Two polynomials that share their prefill terms; ``large`` counts for batches of at least ``large_batch``."""

    small: StepModel
    large: StepModel
    large_batch: int

    def step_s(self, work: StepWork) -> float:
        return (self.large if work.batch >= self.large_batch else self.small).step_s(work)
