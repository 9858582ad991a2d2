"""Fitting the step model to measured steps, robustly: late, cold and disturbed steps do not move it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

from core.step_model import StepModel, StepWork
from engine.performance.nnls import nonnegative_least_squares

_ROUNDS = 12
_HUBER = 1.345
"""Residuals beyond so many standard deviations count by their size, not its square."""
_TRIM = 4.0
"""At last, residuals beyond so many are not counted at all."""


class Span(msgspec.Struct, frozen=True):
    """The work of several steps in turn, for when only their time together is known."""

    prefill_steps: int = 0
    mixed_steps: int = 0
    """Steps that do both."""
    decode_steps: int = 0
    prefill_tokens: int = 0
    prefill_squares: int = 0
    requests: int = 0
    """Tokens made behind a context: the sum of the steps' batches."""
    context_tokens: int = 0

    def __add__(self, other: Span) -> Span:
        return Span(*(a + b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)))

    def __sub__(self, other: Span) -> Span:
        return Span(*(a - b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)))

    @classmethod
    def of(cls, work: StepWork) -> Span:
        """One step."""
        prefill, decode = work.prefill_tokens > 0, work.batch > 0
        kinds = (int(prefill and not decode), int(prefill and decode), int(decode and not prefill))
        return cls(*kinds, work.prefill_tokens, work.prefill_squares, work.batch, work.context_tokens)

    def seconds(self, model: StepModel) -> float:
        """What the model says it takes."""
        bases = self.prefill_steps * model.prefill_base_s + self.decode_steps * model.decode_base_s
        bases += self.mixed_steps * max(model.prefill_base_s, model.decode_base_s)
        prefill = self.prefill_tokens * model.prefill_token_s + self.prefill_squares * model.prefill_square_s
        return bases + prefill + self.requests * model.decode_request_s + self.context_tokens * model.decode_context_s

    def row(self, mixed_pays_prefill: bool) -> tuple[float, ...]:
        """What each coefficient is multiplied with, given which base is the larger."""
        bases = (self.prefill_steps, self.decode_steps + self.mixed_steps)
        if mixed_pays_prefill:
            bases = (self.prefill_steps + self.mixed_steps, self.decode_steps)
        return (bases[0], self.prefill_tokens, self.prefill_squares, bases[1], self.requests, self.context_tokens)


def fit_steps(samples: Iterable[tuple[StepWork, float]], robust: bool = True, floor: StepModel | None = None) -> StepModel:
    """The step model for measured (work, seconds above 0); see ``fit_spans``."""
    return fit_spans([(Span.of(work), seconds) for work, seconds in samples], robust, floor)


def fit_spans(samples: Sequence[tuple[Span, float]], robust: bool = True, floor: StepModel | None = None) -> StepModel:
    """The step model with the least relative errors over ``samples`` (work, seconds above 0), at least one.

    What the samples do not show gets 0: with decode steps only, the prefill coefficients. ``robust`` is Huber's loss
    and then one fit without what is far off; it is for measurements. Without it every sample counts, as for a table.
    ``floor`` is what no coefficient is below, such as the time the hardware needs to read weights and KV: it tells terms
    apart that grow together in the samples. Its two bases are equal, or both 0.
    """
    floor = floor or StepModel()
    choices = [_fit(samples, mixed_pays_prefill, robust, floor) for mixed_pays_prefill in (True, False)]
    return min(choices, key=lambda model: _loss(samples, model, robust))


def relative_errors(samples: Iterable[tuple[StepWork, float]], model: StepModel) -> list[float]:
    """|predicted - measured| / measured of every sample, smallest first."""
    return sorted(abs(model.step_s(work) - seconds) / seconds for work, seconds in samples)


def _fit(samples: Sequence[tuple[Span, float]], mixed_pays_prefill: bool, robust: bool, floor: StepModel) -> StepModel:
    rows = [span.row(mixed_pays_prefill) for span, _ in samples]
    above = [measured - span.seconds(floor) for span, measured in samples]
    lowest = msgspec.structs.astuple(floor)

    def solve(weights: Sequence[float]) -> StepModel:
        added = nonnegative_least_squares(rows, above, weights)
        return StepModel(*(least + more for least, more in zip(lowest, added, strict=True)))

    model = solve([1.0 / measured**2 for _, measured in samples])
    if not robust:
        return model
    for _ in range(_ROUNDS):
        model = solve(_weights(samples, model, huber=True))
    return solve(_weights(samples, model, huber=False))


def _weights(samples: Sequence[tuple[Span, float]], model: StepModel, huber: bool) -> list[float]:
    """Relative to what the model says, not to what was measured: a step that took ten times too long is then ten times off, not one."""
    predicted = [max(span.seconds(model), 1e-9) for span, _ in samples]
    errors = [abs(measured - guess) / guess for (_, measured), guess in zip(samples, predicted, strict=True)]
    deviation = max(1.4826 * median(errors), 1e-6)
    if huber:
        shares = [min(1.0, _HUBER * deviation / error) if error else 1.0 for error in errors]
    else:
        shares = [1.0 if error <= _TRIM * deviation else 0.0 for error in errors]
    return [share / guess**2 for share, guess in zip(shares, predicted, strict=True)]


def _loss(samples: Sequence[tuple[Span, float]], model: StepModel, robust: bool) -> float:
    errors = [abs(span.seconds(model) - measured) / measured for span, measured in samples]
    return median(errors) + sum(min(error, 1.0) for error in errors) / len(errors) if robust else sum(error**2 for error in errors)
