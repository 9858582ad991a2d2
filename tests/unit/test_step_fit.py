"""How long steps take, learnt from those that were made."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.least_squares import nonnegative
from cluster.step_fit import StepFit
from core.step_model import StepModel, StepWork

TRUE = StepModel(0.008, 2e-5, 5e-10, 0.006, 5e-5, 2e-8)
FAR_OFF = StepModel(0.02, 1e-5, 1e-9, 0.002, 1e-4, 1e-8)

Draw = Callable[[random.Random], StepWork]


def decode(rng: random.Random) -> StepWork:
    batch = rng.randint(1, 128)
    return StepWork(batch=batch, context_tokens=batch * rng.randint(100, 4000))


def prefill(rng: random.Random) -> StepWork:
    tokens, cached = int(2 ** rng.uniform(5, 13)), rng.choice([0, 0, 512, 4096])
    return StepWork(tokens, (tokens + cached) ** 2 - cached**2)


def mixed(rng: random.Random) -> StepWork:
    return StepWork(*msgspec.structs.astuple(prefill(rng))[:2], *msgspec.structs.astuple(decode(rng))[2:])


def everything(rng: random.Random) -> StepWork:
    return rng.choices([decode, prefill, mixed], [70, 15, 15])[0](rng)


def slower(by: float) -> StepModel:
    return StepModel(*(term * by for term in msgspec.structs.astuple(TRUE)))


class Worker:
    """Makes steps that take what a model says, with 5 % noise; one in twenty takes anything from a third to a hundred times that."""

    def __init__(self, fit: StepFit, seed: int = 0) -> None:
        self.fit, self.rng, self.now = fit, random.Random(seed), 0.0

    def make(self, steps: int, draw: Draw, takes: StepModel = TRUE) -> None:
        for _ in range(steps):
            work = draw(self.rng)
            seconds = takes.step_s(work) * self.rng.lognormvariate(0, 0.05)
            if self.rng.random() < 0.05:
                seconds *= self.rng.choice([0.3, 3, 10, 100])
            self.now += 0.1
            self.fit.observe(work, seconds, self.now)

    def errors(self, draw: Draw, takes: StepModel = TRUE) -> list[float]:
        """Of predictions for 300 steps, sorted."""
        model = self.fit.model
        assert model is not None
        return sorted(abs(model.step_s(work) / takes.step_s(work) - 1) for work in (draw(self.rng) for _ in range(300)))


@pytest.mark.parametrize("prior", [None, FAR_OFF], ids=["no prior", "a prior that is far off"])
@pytest.mark.parametrize("draw", [decode, prefill, everything], ids=lambda draw: draw.__name__)
def test_finds_the_coefficients(draw: Draw, prior: StepModel | None) -> None:
    """From a thousand steps, outliers among them, predictions are within 2 % for most steps and within 8 % for all."""
    worker = Worker(StepFit(prior))
    worker.make(1000, draw)
    errors = worker.errors(draw)
    assert median(errors) < 0.02
    assert errors[-1] < 0.08
    assert worker.fit.error is not None
    assert 0.02 < worker.fit.error < 0.06, "the noise, which nobody can predict, and no more"


@pytest.mark.parametrize("draw", [decode, prefill, everything], ids=lambda draw: draw.__name__)
def test_follows_a_change(draw: Draw) -> None:
    """Clocks drop by 30 % behind two thousand steps: five hundred later most predictions are right again."""
    worker = Worker(StepFit())
    worker.make(2000, draw)
    worker.make(500, draw, slower(1 / 0.7))
    assert median(worker.errors(draw, slower(1 / 0.7))) < 0.05


def test_follows_a_drift() -> None:
    """A tenth slower every five hundred steps, six times."""
    worker = Worker(StepFit())
    for drift in range(6):
        worker.make(500, everything, slower(1.1**drift))
    assert median(worker.errors(everything, slower(1.1**5))) < 0.05


def test_nothing_is_said_before_there_is_enough() -> None:
    """Neither of the first seconds of a life, nor of its first steps, nor of a few more; also where a prior would do."""
    for prior in (None, FAR_OFF):
        worker = Worker(StepFit(prior, warm_up_s=5.0, warm_up_steps=20))
        worker.make(50, decode)  # until second 5
        assert worker.fit.model is None
        worker.make(10, decode)
        assert worker.fit.model is None
        worker.make(100, decode)
        assert worker.fit.model is not None
    rare = StepFit(warm_up_s=5.0, warm_up_steps=20)
    for step in range(20):
        rare.observe(StepWork(batch=1, context_tokens=100 * step), 0.01, 100.0 * step)
    assert (rare.model, rare.error) == (None, None)


def test_a_cold_start_is_forgotten_at_once() -> None:
    """Steps that took a hundred times as long while kernels were compiled leave no trace."""
    worker = Worker(StepFit(warm_up_s=3.0, warm_up_steps=20))
    worker.make(30, everything, slower(100))
    worker.make(600, everything)
    assert median(worker.errors(everything)) < 0.02


@pytest.mark.parametrize(
    ("draw", "unseen"),
    [
        (decode, ["prefill_base_s", "prefill_token_s", "prefill_square_s"]),
        (prefill, ["decode_base_s", "decode_request_s", "decode_context_s"]),
    ],
    ids=["decodes only", "prompts only"],
)
def test_what_was_not_seen_is_the_priors(draw: Draw, unseen: list[str]) -> None:
    """To the last bit; and zero, for unknown, without one."""
    for prior in (None, FAR_OFF):
        worker = Worker(StepFit(prior))
        worker.make(300, draw)
        model = worker.fit.model
        assert model is not None
        assert [getattr(model, name) for name in unseen] == pytest.approx([getattr(prior or StepModel(), name) for name in unseen])


@pytest.mark.parametrize("prior", [None, FAR_OFF])
@pytest.mark.parametrize(("draw", "unseen"), [(prefill, ["decode"]), (decode, ["prefill"]), (mixed, [])])
def test_what_was_measured_is_told_apart_from_what_was_expected(draw: Draw, unseen: list[str], prior: StepModel | None) -> None:
    """Nothing before there was enough; then only the sides of which there were steps: what a prior says of the other is not in it."""
    worker = Worker(StepFit(prior))
    worker.make(50, draw)
    assert worker.fit.measured is None
    worker.make(500, draw)
    model, measured = worker.fit.model, worker.fit.measured
    assert model is not None
    assert measured is not None
    for name, term in msgspec.structs.asdict(measured).items():
        assert term == (0.0 if name.split("_")[0] in unseen else getattr(model, name))


def test_hours_of_decoding_leave_prefill_as_it_was() -> None:
    """Each kind of step forgets by its own number."""
    worker = Worker(StepFit())
    worker.make(400, prefill)
    worker.make(20_000, decode)
    assert median(worker.errors(prefill)) < 0.03


def test_equal_prompts_are_not_thought_to_cost_their_square() -> None:
    """What cannot be told apart goes to the likelier term: a prompt of 32 times the length costs 15 to 60 times as much, not 1000."""
    worker = Worker(StepFit())
    worker.make(300, lambda rng: StepWork(1024, 1024**2))
    model = worker.fit.model
    assert model is not None
    one, long = StepWork(1024, 1024**2), StepWork(32 * 1024, (32 * 1024) ** 2)
    assert model.step_s(one) == pytest.approx(TRUE.step_s(one), rel=0.03)
    assert 15 < model.step_s(long) / model.step_s(one) < 60


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, 1e9])
def test_what_cannot_be_is_ignored(seconds: float) -> None:
    """As is a step that did nothing."""
    fit = StepFit(warm_up_s=0.0, warm_up_steps=0)
    for step in range(100):
        fit.observe(decode(random.Random(step)), seconds, step)
        fit.observe(StepWork(), 0.1, step)
    assert fit.model is None


works = st.builds(StepWork, *(st.integers(0, limit) for limit in (100_000, 10**10, 1000, 10**8)))
priors = st.none() | st.builds(StepModel, *(st.floats(0, limit) for limit in (0.1, 1e-3, 1e-6, 0.1, 1e-3, 1e-6)))


@settings(max_examples=50)
@given(prior=priors, samples=st.lists(st.tuples(works, st.floats(1e-5, 100.0)), min_size=30, max_size=200))
def test_never_negative_and_always_a_number(prior: StepModel | None, samples: list[tuple[StepWork, float]]) -> None:
    """Whatever steps say, sense or nonsense."""
    fit = StepFit(prior, warm_up_s=0.0, warm_up_steps=0)
    for now, (work, seconds) in enumerate(samples):
        fit.observe(work, seconds, float(now))
        if fit.model is not None:
            assert all(math.isfinite(term) and term >= 0.0 for term in msgspec.structs.astuple(fit.model))
    assert fit.error is None or math.isfinite(fit.error)


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=4, max_size=4), min_size=1, max_size=8),
    st.lists(st.floats(-10, 10), min_size=4, max_size=4),
)
def test_least_squares_without_negative_terms(rows: list[list[float]], products: list[float]) -> None:
    """Nothing near the answer is better, and nothing in it is below zero."""
    squares, wanted = np.array(rows).T @ np.array(rows) + 0.1 * np.eye(4), np.array(products)
    found = nonnegative(squares, wanted)
    assert (found >= 0.0).all()
    slope = squares @ found - wanted
    assert (slope > -1e-6).all(), "no term should be larger"
    assert (np.abs(slope[found > 1e-9]) < 1e-6).all(), "none should be smaller, unless it is zero"


def test_the_model_changes_rarely() -> None:
    """It is one object until it is learnt anew: whoever keeps what follows from it can tell by that."""
    worker, seen = Worker(StepFit()), []
    worker.make(200, decode)
    for _ in range(320):
        worker.make(1, decode)
        seen.append(worker.fit.model)
    assert sum(a is not b for a, b in pairwise(seen)) < 40


def test_least_squares_come_to_an_end() -> None:
    """Terms of very different sizes: what is left of one by rounding, 5e-324 once, must not keep it in for ever."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        rows = rng.normal(size=(int(rng.integers(1, 8)), 6)) * 10.0 ** rng.integers(-3, 4, size=6)
        squares = rows.T @ rows + np.diag(10.0 ** rng.uniform(-6, 0, 6))
        found = nonnegative(squares, rng.normal(size=6) * 10.0 ** rng.integers(-3, 4, size=6))
        assert np.isfinite(found).all()
        assert (found >= 0.0).all()
