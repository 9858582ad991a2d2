"""How many tokens are still to come."""

from __future__ import annotations

import math
import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.predict.histogram import EDGES, LengthHistogram, bin_of
from router.predict.lengths import OutputLengths

LONG = 1_000_000


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 100, 1023, 1024, 1025, 10**6])
def test_a_length_is_in_its_bin(tokens: int) -> None:
    """Bins are a quarter of an octave wide."""
    assert EDGES[bin_of(tokens)] <= tokens < EDGES[bin_of(tokens) + 1]


@pytest.mark.parametrize("emitted", [0, 1, 30, 200, 1000])
@pytest.mark.parametrize("limit", [50, 400, LONG])
def test_the_mean_is_that_of_the_longer_ones(emitted: int, limit: int) -> None:
    """Within 3 %: of lengths beyond what is out, each cut at what is allowed."""
    rng, histogram = random.Random(1), LengthHistogram(memory=LONG)
    lengths = [int(rng.lognormvariate(5, 1)) + 1 for _ in range(5000)]
    for length in lengths:
        histogram.add(length)
    beyond = [length for length in lengths if length > emitted]
    assert histogram.beyond(emitted) == pytest.approx(len(beyond), rel=0.05)
    if emitted < limit:
        assert histogram.mean_beyond(emitted, limit) == pytest.approx(mean(min(length, limit) for length in beyond), rel=0.03)
    assert histogram.quantile_beyond(emitted, 0.5) == pytest.approx(sorted(beyond)[len(beyond) // 2], rel=0.1)


def test_old_lengths_fade() -> None:
    """Behind a few times its memory a histogram knows the new ones only, and its numbers do not run away."""
    histogram = LengthHistogram(memory=100)
    for length in [10] * 5000 + [1000] * 1000:
        histogram.add(length)
    assert histogram.mean_beyond(0, LONG) == pytest.approx(1000, rel=0.01)
    assert histogram.beyond(0) == pytest.approx(100, rel=0.01)


def told(*answers: tuple[str, str, int, int], times: int = 20) -> OutputLengths:
    """After so many answers each of (model, tenant, prompt tokens, output tokens)."""
    lengths = OutputLengths(default_tokens=256)
    for answer in answers * times:
        lengths.observe(*answer)
    return lengths


@pytest.mark.parametrize(
    ("model", "tenant", "prompt", "expected"),
    [
        ("m", "a", 1000, 100),
        pytest.param("m", "a", 1200, 100, id="the same power of two"),
        pytest.param("m", "a", 64, 120, id="another: the tenant's"),
        pytest.param("m", "new", 1000, 180, id="another tenant: the model's"),
        pytest.param("new", "a", 1000, 235, id="another model: everybody's"),
    ],
)
def test_the_finest_that_is_known_answers(model: str, tenant: str, prompt: int, expected: float) -> None:
    """Model, tenant and prompt length; then less and less of these."""
    lengths = told(("m", "a", 1000, 100), ("m", "a", 8000, 140), ("m", "b", 1000, 300), ("n", "c", 1000, 400))
    assert lengths.expected(model, tenant, prompt, LONG) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("max_tokens", "emitted", "expected"),
    [(LONG, 0, 256), (100, 0, 100), (LONG, 200, 256), (LONG, 1000, 1000), (1500, 1000, 500), (100, 100, 0), (100, 200, 0)],
)
def test_knowing_nothing(max_tokens: int, emitted: int, expected: float) -> None:
    """The default, or as much again as there is, and never more than is allowed."""
    assert OutputLengths(default_tokens=256).expected("m", "a", 10, max_tokens, emitted) == expected
    assert OutputLengths(default_tokens=256).quantile(0.9, "m", "a", 10, max_tokens, emitted) == expected


def test_what_is_out_counts() -> None:
    """Half of the answers are short: one that is not over by then is a long one."""
    lengths = told(("m", "a", 10, 20), ("m", "a", 10, 1000))
    assert lengths.expected("m", "a", 10, LONG) == pytest.approx(510, rel=0.05)
    assert lengths.expected("m", "a", 10, LONG, emitted=30) == pytest.approx(970, rel=0.05)
    assert lengths.expected("m", "a", 10, 200, emitted=30) == pytest.approx(170, rel=0.05)
    assert lengths.expected("m", "a", 10, LONG, emitted=5000) == 5000, "none was ever that long"


def test_bounded() -> None:
    """Tenants are clients' words: whoever says thousands pushes out what was not used for longest, and never the coarse ones."""
    lengths = OutputLengths(max_keys=100)
    for number in range(1000):
        lengths.observe("m", f"tenant {number}", 10, 50)
    assert len(lengths) == 100
    assert lengths.expected("m", "tenant 3", 10, LONG) == pytest.approx(50, rel=0.05)


@given(
    st.lists(st.integers(0, 10**7), max_size=60),
    st.integers(0, 10**7),
    st.integers(1, 10**7),
    st.integers(0, 10**7),
    st.floats(0, 1),
)
def test_always_between_nothing_and_what_is_left(seen: list[int], prompt: int, max_tokens: int, emitted: int, part: float) -> None:
    """Whatever was seen."""
    lengths = OutputLengths()
    for tokens in seen:
        lengths.observe("m", "a", prompt, tokens)
    for left in (lengths.expected("m", "a", prompt, max_tokens, emitted), lengths.quantile(part, "m", "a", prompt, max_tokens, emitted)):
        assert math.isfinite(left)
        assert 0 <= left <= max(0, max_tokens - emitted)


def test_answers_are_not_older_than_the_lengths() -> None:
    """What was answered once is answered again, until another length is seen."""
    asked = [(0, 0.5), (0, 0.9), (40, 0.5)]
    once, often = LengthHistogram(64), LengthHistogram(64)
    for tokens in (10, 50, 90, 400, 20, 60):
        once.add(tokens)
        often.add(tokens)
        said = [often.quantile_beyond(*each) for each in asked]
        assert [often.quantile_beyond(*each) for each in asked] == said
    assert said == [once.quantile_beyond(*each) for each in asked]
    assert often.mean_beyond(0, 1000) == once.mean_beyond(0, 1000)
