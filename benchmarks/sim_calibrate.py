"""Finds the step model of an engine from the first part of its request log."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.sim_replay import Arrival, Replay, RunStep, Timed
from core.step_model import StepModel
from engine.performance.fit import Span, fit_spans
from engine.sim_config import SimulatedEngineConfig

_ROUNDS = 8
_START = StepModel(prefill_base_s=0.01, prefill_token_s=5e-5, decode_base_s=0.01, decode_request_s=5e-5)
"""Any plausible model: the rounds correct it."""


def calibrate(
    config: SimulatedEngineConfig, depth: int, arrivals: Sequence[Arrival], log: Sequence[Timed], until_s: float, floor: StepModel
) -> StepModel:
    """The model under which the log's first ``until_s`` seconds come out as they did. Nothing later is looked at.

    A log has no steps, only first and last tokens. So the requests are replayed with the clock set to the logged time whenever a
    logged token comes out; the steps in between are then, but for a few, the ones that were run. Between two logged tokens,
    and between the first and last token of one request, both the work and the seconds are known: the model is fitted to these.
    With it the replay is better, and so the next fit.
    """

    def known_end(index: int, number: int) -> float | None:
        timed = log[index]
        at = {1: timed.first_s, timed.output_tokens: timed.last_s}.get(number)
        return at if at is not None and at <= until_s else None

    model = _START
    for _ in range(_ROUNDS):
        timed, steps = Replay(config, model, depth).run([arrival for arrival in arrivals if arrival.at_s <= until_s], known_end)
        model = fit_spans([*_between_known(steps), *_whole_outputs(timed, log, steps, until_s)], floor=floor)
    return model


def _between_known(steps: Sequence[RunStep]) -> list[tuple[Span, float]]:
    """The steps from each known end to the next, less those in which the engine was idle."""
    samples = []
    span, since_s, last_s = Span(), steps[0].start_s, steps[0].start_s
    for step in steps:
        if step.start_s > last_s:
            span, since_s = Span(), step.start_s
        span, last_s = span + Span.of(step.work), step.end_s
        if step.known:
            if step.end_s > since_s:  # else the replay had two tokens in the wrong order
                samples.append((span, step.end_s - since_s))
            span, since_s = Span(), step.end_s
    return samples


def _whole_outputs(timed: Sequence[Timed], log: Sequence[Timed], steps: Sequence[RunStep], until_s: float) -> list[tuple[Span, float]]:
    """For each request that is over: the steps behind its first token up to its last. Their number is certain."""
    total = [Span()]
    for step in steps:
        total.append(total[-1] + Span.of(step.work))
    behind = {step.end_s: index + 1 for index, step in enumerate(steps)}
    return [
        (total[behind[replayed.last_s]] - total[behind[replayed.first_s]], real.last_s - real.first_s)
        for replayed, real in zip(timed, log, strict=False)
        if real.last_s <= until_s and replayed.last_s > replayed.first_s
    ]
