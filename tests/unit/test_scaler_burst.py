"""A burst is seen within a second; chance is not taken for one."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest

from autoscaler.burst import burst
from autoscaler.capacity import Engine, Shape, decode_capacity, prefill_capacity
from autoscaler.demand import Means
from autoscaler.plan import Add, Relabel
from autoscaler.policy import Objective
from autoscaler.scaler import BatonScaler
from autoscaler.signals import LATEST_S, Arrived, Reading, TrafficSignals, spans_s
from autoscaler.usual import Usual
from core.worker import Role
from tests.support.scaling import FACTS, STEP, limits, paper, policy, traffic

ENGINE = Engine(STEP, FACTS)
USUAL = Usual(Means(1000.0, 400.0, 0.0), 6.0, 0.0)
BURSTINESS = policy().burstiness


def arrived(over_s: float, requests: float, each_tokens: float = 1000.0) -> Arrived:
    return Arrived(over_s, requests, requests * each_tokens)


@pytest.mark.parametrize(
    ("latest", "seen"),
    [
        ([], None),
        ([arrived(0.5, 0)], None),
        ([arrived(0.5, 3)], None),
        ([arrived(0.5, 9)], None),  # three times as many: that happens
        ([arrived(0.5, 1, 20_000)], None),  # a single long prompt is none, either
        ([arrived(0.5, 15, 4000)], (30.0, 4000.0)),
        ([arrived(4.0, 9 * 4.0)], None),
        ([arrived(4.0, 30 * 4.0)], (30.0, 1000.0)),
        ([arrived(0.5, 15), arrived(4.0, 30 * 4.0)], (30.0, 1000.0)),  # over four seconds what half of one cannot say
        ([arrived(0.5, 15, 4000), arrived(1.0, 18, 3500)], (30.0, 4000.0)),  # it began in the last half second
        ([arrived(4.0, 0)], None),
    ],
)
def test_what_is_a_burst(latest: list[Arrived], seen: tuple[float, float] | None) -> None:
    """Six requests a second with prompts of 1,000 tokens are usual."""
    found = burst(latest, USUAL, BURSTINESS)
    assert (found and (found.requests_per_s, found.prompt_tokens)) == (seen and pytest.approx(seen))


def test_without_the_usual_nothing_is_unusual() -> None:
    """Until rates and lengths are known."""
    assert burst([arrived(1.0, 1000)], Usual(), BURSTINESS) is None
    assert burst([arrived(1.0, 1000)], Usual(Means(1000.0), None), BURSTINESS) is None


def test_spans_are_those_that_were_watched() -> None:
    """Who looks every two seconds knows nothing of the last half."""
    assert spans_s(0.5) == list(LATEST_S)
    assert spans_s(2.2) == [2.0, 4.0]  # the loop was a little late
    assert spans_s(10.0) == []


# -- what comes of it ------------------------------------------------------------------------------------------------------


def test_roles_change_at_once_and_nobody_is_started() -> None:
    """While every mean still says that all is as usual."""
    cluster = paper(BatonScaler(limits(), policy()), 2, 6)
    usual = traffic(6.0, prompt=1000, output=400, hits=0.0)
    for _ in range(20):
        assert not cluster.tick(usual, 0.5, running=30).actions
    plan = cluster.tick(msgspec.structs.replace(usual, latest=(arrived(0.5, 20, 4000),)), 0.5, running=30)
    assert {type(action) for action in plan.actions} == {Relabel}
    assert any("a burst" in text for text in plan.warnings)
    assert cluster.count(Role.PREFILL) > 2
    assert not any(isinstance(action, Add | Relabel) for action in cluster.tick(usual, 0.5, running=30).actions)


def test_what_a_burst_makes_of_the_means_does_not_hide_it() -> None:
    """A slow one: when it is no chance any more, a mean prompt is twice what it was."""
    cluster = paper(BatonScaler(limits(), policy()), 2, 6)
    for _ in range(30):
        assert not cluster.tick(traffic(6.0, prompt=1000, output=400, hits=0.0), 0.5, running=30).actions
    doubled = traffic(8.0, prompt=2000, output=300, hits=0.0)
    plan = cluster.tick(msgspec.structs.replace(doubled, latest=(arrived(2.0, 24, 4000),)), 0.5, running=30)
    assert any("a burst" in text for text in plan.warnings)
    for _ in range(30):
        plan = cluster.tick(msgspec.structs.replace(doubled, latest=(arrived(2.0, 16, 2000),)), 0.5, running=30)
    assert not any("a burst" in text for text in plan.warnings)  # it is usual by now


def steady(seed: int, rate: float, prompt_tokens: float, output_tokens: float, servers: int) -> Iterator[tuple[TrafficSignals, float]]:
    """Ten minutes of Poisson arrivals and exponential prompts, looked at every half second: what is told of traffic, and the tokens that
    wait for one of so many workers."""
    rng = random.Random(seed)
    free_s = [0.0] * servers
    came: list[tuple[float, float, float]] = []
    at_s = rng.expovariate(rate)
    for look in range(1, 1200):
        now_s = look / 2
        while at_s <= now_s:
            tokens = 1 + rng.expovariate(1 / prompt_tokens)
            begins_s = max(at_s, min(free_s))
            free_s[free_s.index(min(free_s))] = begins_s + prefill_capacity(ENGINE, Shape(tokens, 0.0, 1.0)).busy_s
            came.append((at_s, tokens, begins_s))
            at_s += rng.expovariate(rate)
        came = [each for each in came if now_s - each[0] < 60.0]
        if now_s < 10.0:
            continue  # without a past there are no rates
        of = {over_s: [each for each in came if now_s - each[0] < over_s] for over_s in (60.0, 10.0, *LATEST_S)}
        mean = sum(tokens for _, tokens, _ in came) / len(came)
        heard = traffic(len(came) / min(now_s, 60.0), mean, output_tokens, 0.0)
        latest = tuple(Arrived(over_s, len(of[over_s]), sum(each[1] for each in of[over_s])) for over_s in LATEST_S)
        yield (
            msgspec.structs.replace(heard, newest_per_s=Reading(len(of[10.0]) / 10.0), latest=latest),
            sum(tokens for _, tokens, begins_s in came if begins_s > now_s),
        )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("prompt_tokens", "output_tokens", "prefill"), [(4000.0, 600.0, 2), (4000.0, 300.0, 4)])
def test_chance_changes_no_roles(seed: int, prompt_tokens: float, output_tokens: float, prefill: int) -> None:
    """Ten minutes of steady traffic at 70 % of what both pools can do, a plan every half second: nobody changes."""
    shape, rng = Shape(prompt_tokens, 0.0, output_tokens), random.Random(seed)
    rate = 0.7 * prefill / prefill_capacity(ENGINE, shape).busy_s
    does = decode_capacity(ENGINE, shape, Objective(2.0, 0.025))
    at_once = rate * output_tokens * does.step_s
    decode = round(at_once / does.batch / 0.7) or 1
    cluster = paper(BatonScaler(limits(budget=prefill + decode), policy(shrink_after_s=1e9)), prefill, decode)
    for heard, waiting_tokens in steady(seed, rate, prompt_tokens, output_tokens, prefill):
        plan = cluster.tick(heard, 0.5, queue=waiting_tokens, running=max(0.0, rng.gauss(at_once, at_once**0.5)))
        assert not [action for action in plan.actions if isinstance(action, Relabel)], plan.text
