"""Step times by name, and fitting the step model to samples."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.step_model import StepModel, StepWork
from engine.performance.fit import Span, fit_spans, fit_steps, relative_errors
from engine.performance.grid import Line, Surface
from engine.performance.nnls import nonnegative_least_squares
from engine.performance.registry import kv_bytes_per_token, names, samples_by_name, step_model_by_name, timing_by_name
from engine.performance.table import TableTime

TRUTH = StepModel(0.012, 4e-5, 3e-10, 0.010, 5e-5, 8e-8)


def works(count: int, chance: random.Random) -> list[StepWork]:
    """Prefill, decode and mixed steps."""
    made = []
    for index in range(count):
        tokens, batch = chance.randrange(16, 4096), chance.randrange(1, 128)
        prefill = (tokens, tokens**2) if index % 3 else (0, 0)
        decode = (batch, batch * chance.randrange(100, 4000)) if index % 3 != 1 else (0, 0)
        made.append(StepWork(*prefill, *decode))
    return made


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10), st.floats(-10, 10)), min_size=3, max_size=12))
def test_nonnegative_least_squares_cannot_be_improved(rows: list[tuple[float, float, float]]) -> None:
    """No coefficient is negative, and a small move of one, where it may move, does not lower the sum of squares."""
    values = [row[0] - row[1] + 0.5 for row in rows]
    found = nonnegative_least_squares([row[:2] for row in rows], values, [1.0] * len(rows))

    def loss(x: list[float]) -> float:
        return sum((x[0] * row[0] + x[1] * row[1] - value) ** 2 for row, value in zip(rows, values, strict=True))

    assert min(found) >= 0
    for index in range(2):
        for step in (1e-3, -1e-3):
            moved = list(found)
            moved[index] = max(0.0, moved[index] + step)
            assert loss(moved) >= loss(found) - 1e-6 * (1 + loss(found))


@pytest.mark.parametrize("robust", [True, False])
def test_fit_finds_the_model_behind_exact_samples(robust: bool) -> None:
    """Steps that follow a model give that model, whichever of its bases is the larger."""
    for truth in (TRUTH, StepModel(0.004, 4e-5, 3e-10, 0.010, 5e-5, 8e-8)):
        samples = [(work, truth.step_s(work)) for work in works(60, random.Random(1))]
        assert max(relative_errors(samples, fit_steps(samples, robust))) < 1e-3


@pytest.mark.parametrize(
    ("disturb", "what"),
    [
        pytest.param(lambda seconds, chance: seconds * 30, "cold starts", id="cold starts"),
        pytest.param(lambda seconds, chance: seconds + chance.random(), "pauses", id="pauses"),
        pytest.param(lambda seconds, chance: seconds * 0.1, "clock errors", id="too fast"),
    ],
)
def test_fit_is_not_moved_by_outliers(disturb, what: str) -> None:
    """With every seventh step far off and 3 % noise on all, the others are still predicted within 3 % in the median."""
    chance = random.Random(2)
    clean = [(work, TRUTH.step_s(work)) for work in works(200, chance)]
    noisy = [(work, seconds * chance.uniform(0.97, 1.03)) for work, seconds in clean]
    disturbed = [(work, disturb(seconds, chance) if index % 7 == 0 else seconds) for index, (work, seconds) in enumerate(noisy)]
    errors = relative_errors(clean, fit_steps(disturbed))
    assert errors[len(errors) // 2] < 0.03, what
    assert errors[int(0.95 * len(errors))] < 0.08, what


def test_fit_never_has_a_negative_coefficient() -> None:
    """Steps that get faster with more work are noise."""
    samples = [(StepWork(batch=batch, context_tokens=batch * 100), 0.02 - batch * 1e-4) for batch in range(1, 100)]
    assert min(fit_steps(samples).__getattribute__(name) for name in StepModel.__struct_fields__) >= 0


def test_fit_of_one_kind_says_nothing_of_the_other() -> None:
    """Decode steps alone leave prefill at 0."""
    model = fit_steps([(work, TRUTH.step_s(work)) for work in works(30, random.Random(3)) if not work.prefill_tokens])
    assert (model.prefill_base_s, model.prefill_token_s, model.prefill_square_s) == (0, 0, 0)
    assert model.decode_s(64, 64_000) == pytest.approx(TRUTH.decode_s(64, 64_000), rel=1e-3)


def test_a_floor_parts_what_the_samples_do_not() -> None:
    """Batch and context that grow together cannot be told apart; a known least time per context token does it."""
    samples = [(StepWork(batch=batch, context_tokens=batch * 1000), 0.01 + batch * (5e-5 + 1000 * 8e-8)) for batch in range(1, 100)]
    model = fit_steps(samples, floor=StepModel(decode_context_s=8e-8))
    assert model.decode_context_s >= 8e-8
    assert model.decode_s(50, 50_000) == pytest.approx(0.01 + 50 * 13e-5, rel=1e-3)


def test_spans_of_several_steps_fit_like_steps() -> None:
    """Where only the time of some steps together is known, the model is found all the same."""
    steps = works(400, random.Random(4))
    groups = [steps[index : index + 4] for index in range(0, 400, 4)]
    samples = []
    for group in groups:
        span = Span()
        for work in group:
            span = span + Span.of(work)
        assert span.seconds(TRUTH) == pytest.approx(sum(TRUTH.step_s(work) for work in group))
        samples.append((span, span.seconds(TRUTH)))
    model = fit_spans(samples)
    assert max(relative_errors([(work, TRUTH.step_s(work)) for work in steps], model)) < 0.01


@pytest.mark.parametrize("name", names())
def test_every_name_is_complete(name: str) -> None:
    """Each name has step times that are met where they were measured, a fitted model, and its model's KV size."""
    timing = timing_by_name(name)
    errors = sorted(abs(timing.step_s(work) - seconds) / seconds for work, seconds in samples_by_name(name))
    assert errors[len(errors) // 2] < 0.001
    assert kv_bytes_per_token(name) > 0
    fitted = relative_errors(samples_by_name(name), step_model_by_name(name))
    assert fitted[len(fitted) // 2] < 0.08


@pytest.mark.parametrize("name", [name for name in names() if isinstance(timing_by_name(name), TableTime)])
def test_tables_are_sane_beyond_their_range(name: str) -> None:
    """More of anything than was measured takes longer; nothing takes no time."""
    timing = timing_by_name(name)
    long = [timing.step_s(StepWork(tokens, tokens**2)) for tokens in (32_768, 65_536, 131_072)]
    assert 0 < long[0] < long[1] < long[2]
    deep = StepWork(2048, 131_072**2 - (131_072 - 2048) ** 2)
    assert timing.step_s(deep) >= timing.step_s(StepWork(2048, 2048**2)) > 0
    assert timing.step_s(StepWork(batch=512, context_tokens=512 * 512)) > timing.step_s(StepWork(batch=256, context_tokens=256 * 512)) > 0
    assert timing.step_s(StepWork(1, 1, 1, 1)) > 0


def test_an_unknown_name_lists_the_known_ones() -> None:
    """A typing error is answered with what there is."""
    with pytest.raises(ConfigError, match=r"h100-llama-3\.1-8b-tp1"):
        timing_by_name("h100-llama-8b")


@pytest.mark.parametrize(
    ("name", "size"),
    [("h100-llama-3.1-8b-tp1", 131_072), ("h200-llama-3.1-70b-tp4", 327_680), ("a100-opt-13b-tp1", 819_200)],
)
def test_kv_bytes_per_token(name: str, size: int) -> None:
    """2 * layers * KV heads * head size * bytes, for all GPUs of an engine together."""
    assert kv_bytes_per_token(name) == size


def test_the_fit_with_a_negative_square_is_flattened() -> None:
    """DistServe's OPT-66B on two GPUs keeps its time at the longest prompt and grows beyond."""
    timing = timing_by_name("a100-opt-66b-tp2")
    published_s = (58.3822026348141 + 0.3826408030281867 * 2048 - 7.1141486747694485e-06 * 2048**2) / 1e3
    assert timing.step_s(StepWork(2048, 2048**2)) == pytest.approx(published_s)
    assert timing.step_s(StepWork(32_768, 32_768**2)) > 10 * published_s


def test_decode_regimes_change_at_the_batch() -> None:
    """A batch of the threshold is a large one."""
    timing = timing_by_name("a100-opt-13b-tp1")
    assert timing.step_s(StepWork(batch=94)) == pytest.approx((23.475041008414784 + 94 * 0.060726861260369455) / 1e3)
    assert timing.step_s(StepWork(batch=95)) == pytest.approx((20.206356173691958 + 95 * 0.1200031385587413) / 1e3)


POINTS = [(5, 2.0), (1, 1.0), (3, 3.0)]


@pytest.mark.parametrize(
    ("x", "y"),
    [(0, 1.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 2.5), (5, 2.0), (7, 1.0), (100, 0.0)],
)
def test_line(x: float, y: float) -> None:
    """Exact at the points, linear in between, the first value below them, the last slope beyond them, never below 0."""
    assert Line(POINTS).at(x) == pytest.approx(y)


def test_line_takes_one_point_and_repeated_ones() -> None:
    """One point is a constant; of two values at one place the last counts."""
    assert Line([(5, 2.0)]).at(9) == 2.0
    assert Line([(1, 1.0), (5, 9.0), (5, 2.0)]).at(5) == 2.0


@pytest.mark.parametrize(("row", "y"), [(0, 1.0), (1, 1.0), (3, 2.0), (5, 3.0), (9, 5.0)])
def test_surface_between_and_beyond_rows(row: float, y: float) -> None:
    """Rows with points of their own are joined by straight lines, the first row below, the last slope beyond."""
    assert Surface([(1, 10, 1.0), (5, 10, 2.0), (5, 30, 4.0)]).at(row, 20) == pytest.approx(y)
