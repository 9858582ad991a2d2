"""What a router expects, and how that is checked."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.ids import Epoch, LegId, RequestId, WorkerId
from core.metrics.predictions import ERROR_BUCKETS
from core.step_model import StepModel
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState
from engine.base import Transfer
from router.foresight import Foresight
from router.plan import Plan, Scored, WorkerView
from router.predict.errors import PredictionErrors, Quantity
from router.predict.extra import Extra
from router.predict.predictor import Predictor
from router.predict.step_models import DEFAULT
from router.timeline import Timeline

FULL, TWICE = StepModel(1, 2, 3, 4, 5, 6), StepModel(2, 4, 6, 8, 10, 12)
DECODES = StepModel(0, 0, 0, 7, 8, 9)
PREFILLS = StepModel(7, 8, 9)
PRIOR = StepModel(10, 20, 30, 40, 50, 60)
P, D = Role.PREFILL, Role.DECODE


def view(name: str, role: Role, step: StepModel | None = None) -> WorkerView:
    card = WorkerCard(WorkerId(name), Epoch(1), role, WorkerState.READY, "tcp://1", "key", EngineFacts(16, 64, 4096, 16, 2048))
    return WorkerView(card, WorkerLoad(step=step))


def halves(prefill: StepModel, decode: StepModel) -> StepModel:
    return StepModel(
        prefill.prefill_base_s,
        prefill.prefill_token_s,
        prefill.prefill_square_s,
        decode.decode_base_s,
        decode.decode_request_s,
        decode.decode_context_s,
    )


@pytest.mark.parametrize(
    ("others", "priors", "asked", "model"),
    [
        pytest.param([], {}, view("x", D, FULL), FULL, id="its own"),
        pytest.param([], {}, view("x", D), DEFAULT, id="nobody knows"),
        pytest.param([], {D: PRIOR}, view("x", D), PRIOR, id="the pool's prior"),
        pytest.param([], {P: PRIOR}, view("x", D), DEFAULT, id="not the other pool's"),
        pytest.param([view("a", D, FULL), view("b", D, FULL), view("c", D)], {D: PRIOR}, view("x", D), FULL, id="the pool's mean"),
        pytest.param([view("a", D, DECODES)], {}, view("x", D), halves(DEFAULT, DECODES), id="of a side that is known"),
        pytest.param([view("p", P, FULL)], {}, view("x", D, DECODES), halves(FULL, DECODES), id="a side like the other pool's"),
        pytest.param([view("p", P, FULL)], {D: PRIOR}, view("x", D, DECODES), halves(PRIOR, DECODES), id="unless there is a prior"),
        pytest.param([view("a", D, FULL)], {D: PRIOR}, view("x", D, PREFILLS), halves(PREFILLS, FULL), id="its own before all else"),
    ],
)
def test_step_models_are_filled_up(others: list[WorkerView], priors: dict[Role, StepModel], asked: WorkerView, model: StepModel) -> None:
    """Own, pool's, prior, other pool's, default: each side by itself."""
    predictor = Predictor(step_priors=priors)
    for other in others:
        predictor.step_model(other)
    assert predictor.step_model(asked) == model
    assert predictor.step_model(replace(asked)) == model, "again"


def test_step_models_change_with_what_is_told() -> None:
    """A worker's new model, a relabelled worker, one that is gone: the pool's mean is of those that are there."""
    predictor = Predictor()
    asked = view("x", D)
    predictor.step_model(view("a", D, FULL))
    predictor.step_model(view("b", D, TWICE))
    assert predictor.step_model(asked) == StepModel(1.5, 3, 4.5, 6, 7.5, 9)
    predictor.step_model(view("b", D, FULL))
    assert predictor.step_model(asked) == FULL
    predictor.step_model(view("a", D, TWICE))
    predictor.step_model(view("b", P, FULL))
    assert predictor.step_model(asked) == TWICE
    predictor.forget(WorkerId("a"))
    predictor.forget(WorkerId("a"))
    predictor.step_model(view("c", D, PREFILLS))
    assert predictor.step_model(asked) == halves(PREFILLS, FULL)


def test_the_same_model_is_the_same_object() -> None:
    """As long as nothing changes, also if each message brings an equal one."""
    predictor = Predictor()
    first = predictor.step_model(view("a", D, FULL))
    assert predictor.step_model(view("a", D, StepModel(1, 2, 3, 4, 5, 6))) == first
    assert predictor.step_model(view("x", D)) is predictor.step_model(view("x", D))


def test_kv_bytes_are_learnt_from_transfers() -> None:
    """The first one replaces the guess; pulls of which nobody knows the tokens teach the link only."""
    predictor = Predictor(kv_bytes_per_token=1000.0)
    assert predictor.kv_bytes_per_token == 1000.0
    predictor.observe_transfer(WorkerId("p"), WorkerId("d"), 10**9, 0, 0.5, 1.0)
    assert predictor.kv_bytes_per_token == 1000.0
    for tokens in (10, 90, 400):
        predictor.observe_transfer(WorkerId("p"), WorkerId("d"), tokens * 64, tokens, 0.1, 2.0, predicted_s=0.2)
    assert predictor.kv_bytes_per_token == pytest.approx(64)
    assert predictor.errors.bias(Quantity.TRANSFER) == pytest.approx(1.0)


def test_a_worker_that_tells_of_endless_pulls_ends_nothing_for_those_behind() -> None:
    """What a link can do is still learnt from them, whatever was said once."""
    foresight, prefill, decode = Foresight(), WorkerId("p"), WorkerId("d")
    chosen = Scored(Plan(prefill, decode), 0.0, "", {"transfer": 0.1})
    for number in range(100):
        timeline = Timeline(RequestId("r"), "r", 0.0, 10.0 * number, 1000, 10, handed_off_s=1.0, decoding_s=1.3)
        timeline.moved(Transfer(LegId("r.0"), 10**8, 0.2 if number else 9000.0))
        foresight.handed_over(cast(Any, SimpleNamespace(chosen=chosen, timeline=timeline)))
    assert foresight.predictor.link(prefill, decode).seconds(10**8) == pytest.approx(0.2, rel=0.1)


def test_the_error_of_a_first_token_is_that_of_the_decision() -> None:
    """What decisions and refusals go by is held against what happened. However long it is off to one side, that shows: nothing is learnt
    that would hide it."""
    predictor = Predictor()
    for _ in range(600):
        predictor.observe_first_token(P, 0.1, 1.0)
    predictor.observe_first_token(P, None, 9.0)
    assert predictor.errors.bias(Quantity.TTFT, P) == pytest.approx(-0.9)
    assert predictor.errors.typical(Quantity.TTFT, P) == pytest.approx(0.9)
    assert predictor.errors.bias(Quantity.TTFT, D) == 0.0


def test_what_first_tokens_may_be_late_by() -> None:
    """Nine in ten were not more than 0.2 s later than predicted. A quarter of the promise at most, whatever happened."""
    predictor = Predictor()
    assert predictor.ttft_late_s(P, 4.0) == 0.0
    for late_s in [0.1] * 80 + [0.2] * 15 + [5.0] * 6:
        predictor.observe_first_token(P, 1.0, 1.0 + late_s)
    assert predictor.ttft_late_s(P, 4.0) == pytest.approx(0.2)
    assert predictor.ttft_late_s(P, 0.4) == pytest.approx(0.1)
    assert predictor.ttft_late_s(D, 4.0) == 0.0


def test_extra_is_of_the_newest() -> None:
    """Neither a few stalls nor what happened long ago moves it."""
    extra = Extra()
    for happened_s in [1.0] * 9:
        extra.observe(0.5, happened_s)
    assert extra.late_s == 0.0, "too few"
    for happened_s in [3.0] * 150 + [0.6] * 101 + [60.0] * 10:
        extra.observe(0.5, happened_s)
    assert extra.late_s == pytest.approx(0.1)


def test_lengths_are_learnt_from_answers() -> None:
    """The predictor passes on what it is told."""
    predictor = Predictor()
    for _ in range(20):
        predictor.observe_finished("m", "t", 100, 40, predicted_tokens=50.0)
    assert predictor.expected_output("m", "t", 100, 1000) == pytest.approx(40, rel=0.01)
    assert predictor.output_quantile(0.9, "m", "t", 100, 1000) == pytest.approx(40, rel=0.2)
    assert predictor.errors.bias(Quantity.OUTPUT_TOKENS) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("predicted", "happened", "error"),
    [
        (2.0, 1.0, 1.0),
        (0.5, 1.0, -0.5),
        (1.0, 1.0, 0.0),
        (0.01, 0.0, 10.0),
        (None, 1.0, None),
        (math.inf, 1.0, None),
        (1.0, math.nan, None),
    ],
)
def test_errors_are_relative_to_what_happened(predicted: float | None, happened: float, error: float | None) -> None:
    """To a millisecond at least; what was not predicted is not checked."""
    errors = PredictionErrors()
    errors.observe(Quantity.QUEUE, predicted, happened, P)
    [numbers] = [numbers for numbers in errors.numbers if (numbers.quantity, numbers.role) == ("queue", "prefill")]
    assert sum(numbers.counts) == (0 if error is None else 1)
    assert (numbers.bias, numbers.typical, numbers.sum) == pytest.approx((error or 0.0, abs(error or 0.0), abs(error or 0.0)))


def test_errors_are_counted_by_size() -> None:
    """Each size in the first bucket that holds it; medians are of the newest only, counts of all."""
    errors = PredictionErrors()
    for size in (0.04, 0.06, 0.5, 99.0):
        errors.observe(Quantity.TPOT, 1 + size, 1.0, D)
    for _ in range(2000):
        errors.observe(Quantity.TPOT, 0.9, 1.0, D)
    [numbers] = [numbers for numbers in errors.numbers if (numbers.quantity, numbers.role) == ("tpot", "decode")]
    at = {bucket: count for bucket, count in zip((*ERROR_BUCKETS, math.inf), numbers.counts, strict=True) if count}
    assert at == {0.05: 1, 0.1: 2001, 0.5: 1, math.inf: 1}
    assert (errors.bias(Quantity.TPOT, D), errors.typical(Quantity.TPOT, D)) == pytest.approx((-0.1, 0.1))


def test_every_series_is_there_from_the_start() -> None:
    """A dashboard that shows nothing says that nothing was predicted, not that nobody counts."""
    assert {(numbers.quantity, numbers.role) for numbers in Predictor().error_numbers} == {
        *((quantity, role) for quantity in ("ttft", "tpot", "queue") for role in ("prefill", "decode")),
        *((quantity, "") for quantity in ("transfer", "output_tokens")),
    }
