"""Both sources of the scaler's numbers on the same routers: one suite, the real Prometheus, real HTTP."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from autoscaler.signals import Reading
from cluster.metrics_listener import MetricsListener
from cluster.signals.base import SignalsMissingError, SignalSource, named
from cluster.signals.direct import DirectSource
from cluster.signals.prometheus import PrometheusSource
from core.ids import RouterId
from core.metrics.words import ScalingInput
from tests.support.cluster_process import eventually
from tests.support.counting_router import CountingRouter
from tests.support.mini_cluster import HOST
from tests.support.prometheus import prometheus, tool

pytestmark = pytest.mark.integration

APP = "chat"
PER_S = 4
"""Requests that each router serves in a second."""
WINDOW_S, STALE_S = 10.0, 4.0
A, B = RouterId("router-chat#Router#a"), RouterId("router-chat#Router#b")
UNUSED = {"direct": RouterId("router-chat#Router#c"), "prometheus": RouterId("router-chat#Router#d")}
"""A router per source that nobody has asked for anything: its first refusals are seen by that source's test."""
T = TypeVar("T")


class World:
    """Counting routers that are scraped, two of them served at a steady rate, on a loop of their own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.routers = {name: CountingRouter() for name in (A, B, *UNUSED.values())}
        self.listeners = {name: MetricsListener(router.registry, HOST) for name, router in self.routers.items()}
        self.present = {name: self.do(listener.open()) for name, listener in self.listeners.items()}
        for name in (A, B):
            router = self.routers[name]
            router.requests, router.decoding, router.waiting_tokens = 7, 5, 300
        self.routers[B].oldest_waiting_s = 2.5
        self._serving = asyncio.run_coroutine_threadsafe(self._serve(), self.loop)

    async def _serve(self) -> None:
        while True:
            for name in (A, B):
                self.routers[name].serve(1, prompt_tokens=100, output_tokens=20, cached_tokens=25)
            await asyncio.sleep(1 / PER_S)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30.0)

    def read(self, source: SignalSource) -> dict[ScalingInput, Reading]:
        """Nothing, where nothing can be said."""
        with contextlib.suppress(SignalsMissingError):
            return named(self.do(source.read()))
        return {}

    def trouble(self, source: SignalSource) -> str:
        try:
            self.do(source.read())
        except SignalsMissingError as error:
            return str(error)
        return ""

    def close(self) -> None:
        self._serving.cancel()
        with contextlib.suppress(concurrent.futures.CancelledError):
            self._serving.result(10.0)
        for listener in self.listeners.values():
            self.loop.call_soon_threadsafe(listener.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    tool("prometheus")
    made = World()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def sources(world: World) -> Iterator[dict[str, SignalSource]]:
    """Both, having watched for as long as they need."""
    groups = [{"targets": [address], "labels": {"app": APP, "instance": name}} for name, address in world.present.items()]
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [{"job_name": "baton", "static_configs": groups}]}
    with prometheus(config) as running:
        both: dict[str, SignalSource] = {
            "direct": DirectSource(lambda: world.present, WINDOW_S),
            "prometheus": PrometheusSource(running.url, APP, lambda: world.present, STALE_S, WINDOW_S),
        }
        try:
            eventually(lambda: all(ScalingInput.NEWEST in world.read(source) for source in both.values()), 20.0, "both have rates")
            eventually(
                lambda: all(abs(world.read(source)[ScalingInput.ARRIVALS].value / (2 * PER_S) - 1) < 0.15 for source in both.values()),
                20.0,
                "they have seen a whole window of it",
            )
            yield both
        finally:
            for source in both.values():
                world.do(source.close())


@pytest.fixture(params=["direct", "prometheus"])
def source_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(sources: dict[str, SignalSource], source_name: str) -> SignalSource:
    return sources[source_name]


def test_the_numbers_are_the_same(world: World, source: SignalSource) -> None:
    """Rates and means about (the counters of one scrape are milliseconds apart), what is there now exactly; none of it old."""
    seen = world.read(source)
    values = {name: reading.value for name, reading in seen.items()}
    rates = {ScalingInput.ARRIVALS: 2 * PER_S, ScalingInput.NEWEST: 2 * PER_S}
    means = {ScalingInput.PROMPT_TOKENS: 100, ScalingInput.OUTPUT_TOKENS: 20, ScalingInput.HIT_RATE: 0.25}
    assert {name: values.pop(name) for name in rates} == pytest.approx(rates, rel=0.25)
    assert {name: values.pop(name) for name in means} == pytest.approx(means, rel=0.1)
    assert values == {ScalingInput.WAITING_TOKENS: 600, ScalingInput.WAITED: 2.5, ScalingInput.COMPUTING: 4, ScalingInput.DECODING: 10}
    assert {reading.age_s <= STALE_S for reading in seen.values()} == {True}


def test_a_router_that_has_left_holds_nothing(world: World, source: SignalSource) -> None:
    """Its gauges are gone as soon as the controller has not heard of it; what it was asked was asked."""
    everybody, world.present = world.present, {A: world.present[A]}
    try:
        seen = world.read(source)
        assert seen[ScalingInput.DECODING].value == 5
        assert seen[ScalingInput.ARRIVALS].value > 1.5 * PER_S
    finally:
        world.present = everybody


def test_refused_requests_are_demand(world: World, source: SignalSource, source_name: str) -> None:
    """At the door and in the queue, each once, also the first that a router has ever refused; a client's mistake is none."""
    before = world.read(source)[ScalingInput.NEWEST].value
    world.loop.call_soon_threadsafe(world.routers[UNUSED[source_name]].refuse, 100)
    eventually(lambda: world.read(source)[ScalingInput.NEWEST].value > before + 10, 10.0, "they are seen")
    assert world.read(source)[ScalingInput.NEWEST].value < before + 26  # 20, and what Prometheus adds for the edges of its window
    eventually(lambda: world.read(source)[ScalingInput.NEWEST].value < before + 5, 20.0, "and ten seconds later they are over")


def test_a_router_nobody_has_heard_is_named(world: World, source: SignalSource) -> None:
    """There is a third one that does not answer: half the numbers are not passed on as if they were all."""
    everybody, world.present = world.present, {**world.present, RouterId("router-new"): "127.0.0.1:1"}
    try:
        assert "router-new" in world.trouble(source)
        world.present = {}
        assert "no router is there" in world.trouble(source)
    finally:
        world.present = everybody


def test_what_is_old_is_said_to_be(world: World, sources: dict[str, SignalSource]) -> None:
    """The last test here: a router stops answering. Its numbers age; beyond what may be acted on, either they are gone or say so."""
    direct, prometheus_ = sources["direct"], sources["prometheus"]
    assert world.read(direct)
    world.loop.call_soon_threadsafe(world.listeners[B].close)
    eventually(lambda: max(reading.age_s for reading in world.read(direct).values()) > STALE_S, 20.0, "they are as old as they are")
    eventually(lambda: str(B) in world.trouble(prometheus_), 20.0, "Prometheus has not scraped it for too long")
