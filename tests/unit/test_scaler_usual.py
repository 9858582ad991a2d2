"""What is usual: chance is smoothed, other traffic is not."""

from __future__ import annotations

import random
from statistics import pstdev

import pytest

from autoscaler.demand import Means
from autoscaler.usual import Usual

USUAL = Usual(Means(4000.0, 300.0, 0.25), 1.0, 0.0)


def looked(prompt: float = 4000.0, output: float = 300.0, hits: float = 0.25, rate: float | None = 1.0, at_s: float = 5.0) -> Usual:
    """One look later."""
    return USUAL.seen(Means(prompt, output, hits), rate, at_s)


def test_the_first_look_is_usual() -> None:
    """Whatever was seen first."""
    assert Usual().seen(Means(10.0, None), 3.0, 7.0) == Usual(Means(10.0, None), 3.0, 7.0)


@pytest.mark.parametrize(
    ("seen", "usual"),
    [
        ({"rate": 1.3}, (1.0, 1.05)),  # a minute with 78 requests for 60
        ({"rate": 1.5}, (1.5, 1.5)),  # with 90: no chance
        ({"rate": 0.0}, (0.0, 0.0)),
        ({"rate": None}, (1.0, 1.0)),
    ],
)
def test_rates(seen: dict[str, float | None], usual: tuple[float, float]) -> None:
    """What chance may explain moves the rate a little; more, and none at all, at once; an unknown one does not."""
    rate = looked(**seen).requests_per_s  # type: ignore[arg-type]  # each is one of its arguments
    assert rate is not None
    assert usual[0] <= rate <= usual[1]


def test_lengths() -> None:
    """Somewhat longer prompts count slowly, and half as long again at once, with their hits."""
    slow, new = looked(prompt=5000.0, hits=0.5).means, looked(prompt=8000.0, hits=0.5).means
    assert slow.prompt_tokens is not None
    assert 4000.0 < slow.prompt_tokens < 4100.0
    assert 0.25 < slow.hit_rate < 0.26
    assert (new.prompt_tokens, new.hit_rate) == (8000.0, 0.5)
    assert new.output_tokens == 300.0


def test_time_makes_it_usual() -> None:
    """After a long time without a look, the newest is what counts."""
    later = looked(prompt=5000.0, rate=1.2, at_s=10_000.0)
    assert later.means.prompt_tokens == pytest.approx(5000.0)
    assert later.requests_per_s == pytest.approx(1.2)


def test_noise_is_less() -> None:
    """Lengths and rates that vary by chance vary less than half as much when they are usual."""
    rng, usual = random.Random(5), USUAL
    seen: list[tuple[float, float]] = []
    came: list[tuple[float, float]] = []
    for number in range(400):
        prompt, rate = rng.gauss(4000.0, 400.0), max(0.1, rng.gauss(1.0, 0.1))
        usual = usual.seen(Means(prompt, 300.0, 0.25), rate, 5.0 * number)
        came.append((prompt, rate))
        seen.append((usual.means.prompt_tokens or 0.0, usual.requests_per_s or 0.0))
    for side in range(2):
        assert pstdev(each[side] for each in seen) < 0.5 * pstdev(each[side] for each in came)
