"""The numbers that the controller gets from routers by itself: how they are read, counted and aged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.signals import Signals
from cluster.signals.base import SignalsMissingError, as_signals, named
from cluster.signals.direct import DirectSource
from cluster.signals.growth import Growth
from cluster.signals.queries import AGE, QUERIES, filled
from cluster.signals.scrape import parsed
from core.ids import RouterId, WorkerId
from core.metrics.words import ScalingInput, TokenKind, Why
from core.worker import Role
from router.service import ORDINARY
from tests.support.counting_router import CountingRouter
from tests.support.promql import metrics
from tests.support.watching import BATONS

A, B = RouterId("a"), RouterId("b")


class Wire:
    """Routers by their addresses; one that is away does not answer. ``look`` reads once a second."""

    def __init__(self) -> None:
        self.routers = {A: CountingRouter(), B: CountingRouter()}
        self.away: set[RouterId] = set()
        self.present = {A: "a", B: "b"}
        self.source = DirectSource(lambda: self.present, 60.0, self.fetch, lambda: self.now_s)
        self.now_s = 1000.0

    async def fetch(self, address: str) -> str:
        if address in self.away:
            raise TimeoutError
        return self.routers[RouterId(address)].exposition

    async def look(self, seconds: int = 1, **served: int) -> dict[ScalingInput, float]:
        """What is known at the end; each second, each router that is not away serves ``served``."""
        found = Signals()
        for _ in range(seconds):
            self.now_s += 1.0
            for router in self.present.keys() - self.away:
                self.routers[router].serve(**served)
            found = await self.source.read()
        return {name: reading.value for name, reading in named(found).items()}


@pytest.fixture
def wire() -> Wire:
    return Wire()


# -- one scrape --------------------------------------------------------------------------------------------------------------


def test_a_scrape_is_what_concerns_scaling() -> None:
    """Counters by whose total they belong to, gauges by name; clients' mistakes are not among them."""
    router = CountingRouter()
    router.serve(2)
    router.refuse()
    router.requests, router.decoding, router.waiting_tokens, router.oldest_waiting_s = 5, 3, 700, 1.5
    scrape = parsed(router.exposition)
    assert {total: sum(series.values()) for total, series in scrape.counters.items()} == {
        "arrivals": 3,
        "refused": 2,
        "refused_later": 1,
        "ended": 2,
        "prompt_tokens": 300,
        "output_tokens": 40,
        "hits": 50,
        "asked": 200,
    }
    assert sorted(scrape.gauges.values()) == [1.5, 3, 5, 700]


def test_names_of_clients_are_not_mistaken() -> None:
    """Whatever is in a label that clients or operators choose, the words that decide are read from their own labels."""
    plain, tricky = CountingRouter(), CountingRouter()
    names = ['x",kind="output', "x,kind=", ',kind="output",', "a\nb\u2028# TYPE c", "\\", "x} 7"]
    for name in names:
        plain.tally.tenants.add(f"plain-{len(name)}", TokenKind.PROMPT, by=5)
        plain.tally.tenants.add(f"plain-{len(name)}", TokenKind.OUTPUT, by=7)
        tricky.tally.tenants.add(name, TokenKind.PROMPT, by=5)
        tricky.tally.tenants.add(name, TokenKind.OUTPUT, by=7)
    totals = [{total: sum(series.values()) for total, series in parsed(router.exposition).counters.items()} for router in (plain, tricky)]
    assert totals[0] == totals[1]
    assert totals[1]["output_tokens"] == 7 * len(names)


def test_each_workers_counter_is_its_own() -> None:
    """Two workers' prompts are two series of one total: one of them beginning anew is not hidden by the other."""
    router = CountingRouter()
    for worker in ("a", "b"):
        router.tally.prompt_begun(WorkerId(worker), Role.PREFILL, 100, 25)
    assert list(parsed(router.exposition).counters["asked"].values()) == [100.0, 100.0]


@pytest.mark.parametrize(
    "exposition",
    [
        "",
        "<html>no</html>",
        "baton_router_requests{ 1",
        CountingRouter().exposition + '\n# TYPE baton_arrivals_total counter\nbaton_arrivals_total{class="x"} many\n',
        CountingRouter().exposition.replace("baton_router_decoding_requests", "another"),
    ],
)
def test_what_is_no_routers_exposition(exposition: str) -> None:
    """It is said, not taken for zeros."""
    with pytest.raises(ValueError):
        parsed(exposition)


# -- counters ----------------------------------------------------------------------------------------------------------------


def test_growth_is_on_straight_lines_between_scrapes() -> None:
    """What was counted before the first scrape belongs to another time."""
    growth = Growth(60.0)
    for at_s, value in ((0.0, 100.0), (10.0, 120.0), (20.0, 120.0), (30.0, 150.0)):
        growth.heard({"x": {"x{label}": value}}, at_s)
    assert [growth.since("x", at_s) for at_s in (-5.0, 0.0, 5.0, 10.0, 25.0, 30.0, 99.0)] == [50, 50, 40, 30, 15, 0, 0]
    assert growth.since("y", 0.0) == 0.0
    assert growth.heard_s == 30.0


def test_counters_that_begin_anew_or_end() -> None:
    """One that has fallen has begun anew; a new label has begun; one that is gone keeps what it had. Nothing is counted twice."""
    growth = Growth(60.0)
    growth.heard({"x": {"1": 10.0}}, 0.0)
    growth.heard({"x": {"1": 4.0}}, 1.0)  # restarted: four since
    growth.heard({"x": {"1": 5.0, "2": 3.0}}, 2.0)  # one, and three of a new one
    growth.heard({"x": {"1": 5.0}}, 3.0)  # the new one left
    assert growth.since("x", 0.0) == 8.0


@given(st.lists(st.tuples(st.floats(0.1, 30.0), st.integers(0, 50), st.booleans()), min_size=1, max_size=40))
def test_nothing_is_lost_or_made_up(steps: list[tuple[float, int, bool]]) -> None:
    """Whatever the pauses and restarts: the growth over all that is kept is what was counted in it; and over less, not more."""
    keep_s = 60.0
    growth, now_s, value = Growth(keep_s), 0.0, 1000
    growth.heard({"x": {"x": float(value)}}, now_s)
    counted: list[tuple[float, int]] = []
    for pause_s, more, restarts in steps:
        now_s += pause_s
        value = more if restarts and more < value else value + more
        growth.heard({"x": {"x": float(value)}}, now_s)
        counted.append((now_s, more))
    for since_s in (now_s - keep_s, now_s - keep_s / 2):
        grown = growth.since("x", since_s)
        assert sum(more for at_s, more in counted if at_s - 30.0 > since_s) - 1e-6 <= grown
        assert grown <= sum(more for at_s, more in counted if at_s > since_s) + 1e-6


# -- the source --------------------------------------------------------------------------------------------------------------


async def test_rates_and_means_of_all_routers(wire: Wire) -> None:
    """Sums over routers; means are over requests, not over routers."""
    wire.routers[A].waiting_tokens, wire.routers[B].oldest_waiting_s = 400, 2.5
    wire.routers[A].requests, wire.routers[B].requests, wire.routers[B].decoding = 3, 7, 6
    found = await wire.look(30, requests=2, prompt_tokens=100, output_tokens=20, cached_tokens=25)
    assert found == pytest.approx(
        {
            ScalingInput.ARRIVALS: 4.0,
            ScalingInput.NEWEST: 4.0,
            ScalingInput.PROMPT_TOKENS: 100.0,
            ScalingInput.OUTPUT_TOKENS: 20.0,
            ScalingInput.HIT_RATE: 0.25,
            ScalingInput.WAITING_TOKENS: 400.0,
            ScalingInput.WAITED: 2.5,
            ScalingInput.COMPUTING: 4.0,
            ScalingInput.DECODING: 6.0,
        }
    )


async def test_a_burst_is_in_the_newest_first(wire: Wire) -> None:
    """Over ten seconds all of it, over a minute a sixth."""
    await wire.look(70, requests=1)
    found = await wire.look(10, requests=7)
    assert found[ScalingInput.NEWEST] == pytest.approx(14.0)
    assert found[ScalingInput.ARRIVALS] == pytest.approx((50 * 2 + 10 * 14) / 60)


async def test_the_latest_is_what_came_since_looks_that_were_made(wire: Wire) -> None:
    """Of all routers, with tokens also of those that were refused before anybody counted theirs; of half a second, who looks every second
    knows nothing, nor does anybody without a past."""
    assert not (await wire.source.read()).traffic.latest
    await wire.look(20, requests=1, prompt_tokens=100)
    await wire.look(1, requests=5, prompt_tokens=400)
    wire.now_s += 1.0
    wire.routers[A].serve(4, prompt_tokens=400)
    for _ in range(4):
        wire.routers[A].tally.refused(Why.QUEUE_FULL, ORDINARY)
    found = (await wire.source.read()).traffic.latest
    assert [(each.over_s, each.requests) for each in found] == [(1.0, 8.0), (2.0, 18.0), (4.0, 22.0)]
    assert [each.prompt_tokens for each in found[:2]] == pytest.approx([8 * 400.0, 18 * 400.0])


async def test_refused_requests_are_demand(wire: Wire) -> None:
    """Once each, whether at the door or in the queue; mistakes are none."""
    await wire.look(20, requests=0)
    wire.routers[A].refuse(30)
    found = await wire.look(1, requests=0)
    assert found[ScalingInput.NEWEST] == pytest.approx(6.0)


async def test_without_a_past_there_are_no_rates(wire: Wire) -> None:
    """Not for the first ten seconds: what is there now is told, and what was counted before does not count."""
    wire.routers[A].serve(10_000)
    found = await wire.look(10, requests=1)
    assert found.keys() == {ScalingInput.WAITING_TOKENS, ScalingInput.WAITED, ScalingInput.COMPUTING, ScalingInput.DECODING}
    assert (await wire.look(1, requests=1))[ScalingInput.ARRIVALS] == pytest.approx(2.0)


async def test_means_of_nobody_are_missing(wire: Wire) -> None:
    """Without requests there is a rate of zero and no length."""
    found = await wire.look(15, requests=0)
    assert found[ScalingInput.ARRIVALS] == 0.0
    assert not found.keys() & {ScalingInput.PROMPT_TOKENS, ScalingInput.OUTPUT_TOKENS, ScalingInput.HIT_RATE}


async def test_routers_come_and_go(wire: Wire) -> None:
    """What one was asked that has left was asked; what it held is nobody's; what a new one counted before it was known does not count."""
    wire.routers[A].requests = wire.routers[B].requests = 5
    await wire.look(30, requests=1)
    del wire.present[A]
    new = RouterId("new")
    wire.routers[new], wire.present[new] = CountingRouter(), "new"
    wire.routers[new].serve(500)
    found = await wire.look(1, requests=1)
    assert found[ScalingInput.ARRIVALS] == pytest.approx(2.0, rel=0.1)
    assert found[ScalingInput.COMPUTING] == 5.0
    assert (await wire.look(60, requests=1))[ScalingInput.ARRIVALS] == pytest.approx(2.0)


async def test_one_that_does_not_answer_is_taken_at_its_word(wire: Wire) -> None:
    """Its last numbers count, and all are as old as they are."""
    wire.routers[A].requests = 5
    await wire.look(20, requests=1)
    wire.away = {A}
    found = await wire.look(4, requests=1)
    assert found[ScalingInput.COMPUTING] == 5.0
    wire.now_s += 0.5
    assert {reading.age_s for reading in named(await wire.source.read()).values()} == {4.5}


async def test_one_that_is_silent_for_long_is_told_by_its_age(wire: Wire) -> None:
    """Also for longer than anything is remembered of those that have left."""
    await wire.look(20, requests=1)
    wire.away = {A}
    await wire.look(200, requests=1)
    assert {reading.age_s for reading in named(await wire.source.read()).values()} == {200.0}


async def test_who_was_never_heard_is_named(wire: Wire) -> None:
    """And nobody at all is said, too."""
    wire.away = {B}
    with pytest.raises(SignalsMissingError, match="b cannot be scraped at b: TimeoutError"):
        await wire.look()
    wire.present = {}
    with pytest.raises(SignalsMissingError, match="no router is there"):
        await wire.look()


def test_names_and_fields_are_the_same() -> None:
    """Every number has its place among the signals, and is found there again."""
    values = {name: float(place) for place, name in enumerate(ScalingInput)}
    assert {name: reading.value for name, reading in named(as_signals(values, 1.0)).items()} == values


# -- what Prometheus is asked ------------------------------------------------------------------------------------------------


def test_every_number_has_a_query_about_metrics_there_are() -> None:
    """One for each, of this application only; all places are filled."""
    assert set(QUERIES) == set(ScalingInput)
    for query in (AGE, *QUERIES.values()):
        asked = filled(query, 'an "app"', [RouterId("app#Router#x.y")], 30.0, 60.0)
        assert "$" not in asked
        assert metrics(asked) <= BATONS
        assert asked.count('app="an \\"app\\""') == len(
            [name for name in BATONS if f"{name}{{" in asked for _ in range(asked.count(f"{name}{{"))]
        )
