"""One trace of one request, over router and workers, as a collector has it. The collector is real, and so is what speaks to it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from cluster.metrics_listener import MetricsListener
from cluster.otlp import otlp_export
from cluster.span_export import SpanExport
from core.metrics.exposition import ReadingCollector
from core.metrics.of_requests import TRACE_SPANS, TTFT
from core.metrics.tally import Spreads
from core.pool_config import PoolConfig
from core.tracing_config import TracingConfig
from router.http_trace import Traced
from router.limits import Limits
from router.queue import QueueLimits
from tests.contract.engine_contract import prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import MiniCluster
from tests.support.otlp_receiver import Collector, Received, over_grpc
from tests.support.processes import wait_until
from tests.support.prometheus import prometheus
from tests.support.router_server import MODEL, RouterServer, open_client, router_server
from tests.support.sampling import COUNTS, expected

TRACE = "0af7651916cd43dd8448eb211c80319c"
ABOVE = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{ABOVE}-01"
RESOLUTION_NS = 1000
"""Clocks are read in floating point seconds here and there."""

Ask = Callable[[], Awaitable[None]]


@pytest.fixture(name="collector")
def _collector() -> Iterator[Collector]:
    with over_grpc() as collector:
        yield collector


class Exports:
    """What router and workers send their spans with, each by itself as in life."""

    def __init__(self, collector: Collector) -> None:
        self._config = TracingConfig(otlp_endpoint=collector.endpoint)
        self._all: list[SpanExport] = []
        self.router = self._made("baton-router", "router-0")

    def worker(self, name: str) -> SpanExport:
        return self._made("baton-worker", name)

    def _made(self, service: str, instance: str) -> SpanExport:
        export = otlp_export(self._config, service, instance, {})
        assert export is not None
        self._all.append(export)
        return export

    def close(self) -> None:
        """All they have is with the collector then."""
        for export in self._all:
            export.close(10.0)


@pytest.fixture(name="exports")
def _exports(collector: Collector) -> Iterator[Exports]:
    exports = Exports(collector)
    yield exports
    exports.close()


async def traced(export: SpanExport, ask: Ask, *headers: tuple[str, str]) -> None:
    """Has ``ask`` make a request of the mini cluster as a part of one HTTP request with these headers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await ask()
        await send({"type": "http.response.start", "status": 200})

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    async def nobody(message: Message) -> None:
        pass

    sent = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": sent}
    await Traced(app, export.put, 1.0)(scope, nothing, nobody)


def one_tree(collector: Collector, root: Received) -> None:
    """Every span is of this trace and hangs under another one, and inside of it as to time."""
    by_id = {span.span_id: span for span in collector.spans}
    assert len(by_id) == len(collector.spans)
    assert {span.trace_id for span in collector.spans} == {root.trace_id}
    for span in collector.spans:
        if span is not root:
            above = by_id[span.parent_id]
            assert span.begin_ns >= above.begin_ns - RESOLUTION_NS, (span, above)
            assert span.name in {"worker", "admission", "engine"} or span.end_ns <= above.end_ns + RESOLUTION_NS, (span, above)


def follow_each_other(spans: list[Received], whole: Received) -> None:
    """Without a gap, from the beginning of the whole to its end."""
    assert (spans[0].begin_ns, spans[-1].end_ns) == (whole.begin_ns, whole.end_ns)
    for before, after in pairwise(spans):
        assert abs(after.begin_ns - before.end_ns) <= RESOLUTION_NS
    assert abs(sum(span.took_ns for span in spans) - whole.took_ns) <= RESOLUTION_NS * len(spans)


async def test_a_split_request_is_one_trace(cluster: MiniCluster, collector: Collector, exports: Exports) -> None:
    """Two workers and a router tell of it under the id that came in; each part hangs where it belongs, and the phases add up."""
    cluster.spans = exports.worker
    await cluster.start(1, 1, link_latency_s=0.02)

    async def ask() -> None:
        cluster.router.send("a", prompt_of(40, 1), 20, **COUNTS)
        await cluster.router.finished("a")

    await traced(exports.router, ask, ("traceparent", TRACEPARENT), ("tracestate", "vendor=1"))
    await cluster.nothing_left()
    exports.close()
    [http], [request] = collector.named("POST /v1/completions"), collector.named("request")
    assert (http.trace_id, http.parent_id, http.kind) == (TRACE, ABOVE, "server")
    assert {span.state for span in collector.spans} == {"vendor=1"}
    assert request.parent_id == http.span_id
    one_tree(collector, http)

    legs = [span for span in collector.below(request) if span.name.startswith("leg ")]
    assert [(leg.name, leg.attributes["baton.worker"], leg.kind) for leg in legs] == [
        ("leg prefill", "prefill-0", "client"),
        ("leg decode", "decode-0", "client"),
    ]
    follow_each_other(collector.below(request), request)
    for leg in legs:
        phases = [span for span in collector.below(leg) if "baton.phase" in span.attributes]
        follow_each_other(phases, leg)
        [worker] = [span for span in collector.below(leg) if span.name == "worker"]
        assert (worker.kind, worker.attributes["baton.worker"]) == ("server", leg.attributes["baton.worker"])
        assert [span.name for span in collector.below(worker)] == ["admission", "engine"]
    assert [span.name for span in collector.below(legs[1]) if span.name != "worker"] == ["transfer", "decode_wait", "decode"]
    [pull], engines = collector.named("kv_pull"), collector.named("engine")
    assert pull.parent_id == engines[1].span_id
    assert pull.attributes["baton.transfer_bytes"] == request.attributes["baton.transfer_bytes"] > 0
    timeline = cluster.router.timeline("a")
    assert timeline.trace_id == TRACE
    said = {name: request.attributes[f"baton.{name}"] for name in ("plan", "outcome", "attempts", "prefill.worker", "decode.worker")}
    assert said == {
        "plan": "disaggregated",
        "outcome": "finished",
        "attempts": 1,
        "prefill.worker": "prefill-0",
        "decode.worker": "decode-0",
    }
    assert (request.attributes["gen_ai.usage.input_tokens"], request.attributes["gen_ai.usage.output_tokens"]) == (40, 20)


async def test_a_resumed_request_shows_both_attempts(cluster: MiniCluster, collector: Collector, exports: Exports) -> None:
    """The leg that was lost with its worker, why, and the one that went on behind the tokens that were out."""
    cluster.spans = exports.worker
    await cluster.start(1, 2)

    async def ask() -> None:
        cluster.router.send("a", prompt_of(40, 1), 600, **COUNTS)
        await assert_eventually(lambda: len(cluster.router.tokens("a")) > 3, what="it decodes")
        await cluster.worker(cluster.router.timeline("a").decode_worker).kill()
        await cluster.router.finished("a")

    await traced(exports.router, ask)
    await cluster.nothing_left()
    exports.close()
    assert cluster.router.tokens("a") == expected(prompt_of(40, 1), 600)
    [request] = collector.named("request")
    legs = [span for span in collector.below(request) if span.name.startswith("leg ")]
    follow_each_other(collector.below(request), request)
    ended = [(leg.attributes["baton.attempt"], leg.attributes["baton.leg.ended"]) for leg in legs]
    assert ended[:3] == [(1, "finished"), (1, "lost"), (2, "finished")]
    assert "lost" not in [how for _, how in ended[2:]]
    assert (legs[1].error != "", legs[2].attributes["baton.emitted_tokens"] > 3) == (True, True)
    assert (request.attributes["baton.attempts"], request.attributes["baton.resumes"]) == (2, request.attributes["baton.losses"])


async def test_one_that_waits_and_is_refused_says_why(cluster: MiniCluster, collector: Collector, exports: Exports) -> None:
    """Its time is all in the queue, and the reason is the word by which refusals are counted."""
    cluster.spans = exports.worker
    await cluster.start(1, 1, limits=Limits(QueueLimits(max_wait_s=0.3)), pool=PoolConfig(headroom_tokens=0, max_prefill_tokens=50))
    for worker in cluster.alive:
        worker.gate.shut()
    cluster.router.send("first", prompt_of(100, 1), 5)

    async def ask() -> None:
        cluster.router.send("a", prompt_of(100, 2), 5)
        await cluster.router.finished("a")

    await traced(exports.router, ask)
    for worker in cluster.alive:
        worker.gate.open()
    await cluster.router.finished("first")
    await cluster.nothing_left()
    exports.close()
    [request] = collector.named("request")
    assert (request.attributes["baton.outcome"], request.attributes["baton.refusal.reason"]) == ("refused", "waited")
    assert "no worker had room" in request.error
    [queue] = collector.named("queue")
    assert queue.took_ns > 0.9 * request.took_ns
    assert request.trace_id != TRACE  # nobody gave one


async def test_a_dead_collector_harms_nobody(cluster: MiniCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are answered as ever; the spans that nobody takes are counted; ending takes no longer than is allowed."""
    with socket.socket() as deaf:  # takes connections, never answers
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        config = TracingConfig(otlp_endpoint=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        export = otlp_export(config, "baton-router", "router-0", {})
        assert export is not None
        cluster.spans = lambda worker: export
        await cluster.start(1, 1)

        async def ask(name: str) -> None:
            cluster.router.send(name, prompt_of(40, 1), 20, **COUNTS)
            await cluster.router.finished(name)

        for number in range(5):
            await traced(export, lambda name=f"a{number}": ask(name))  # type: ignore[misc]
            assert cluster.router.tokens(f"a{number}") == expected(prompt_of(40, 1), 20)
        await cluster.nothing_left()

        def counted(fate: str) -> float:
            return export.counts(TRACE_SPANS).cell(fate).value

        await assert_eventually(lambda: counted("failed"), 20.0, "a batch was given up")
        await traced(export, lambda: ask("last"))
        export.close(0.0)
        await assert_eventually(lambda: "baton-spans" not in {thread.name for thread in threading.enumerate()}, what="nothing goes on")
        assert counted("exported") == 0
        assert counted("failed") > 6 * 10  # all of them


@pytest.fixture(name="served")
async def _served(exports: Exports) -> AsyncIterator[RouterServer]:
    """vLLM's whole server, traced."""
    async with router_server(export=exports.router.put, spans=exports.worker) as server:
        yield server


async def test_over_http(served: RouterServer, collector: Collector, exports: Exports) -> None:
    """The trace comes with the headers, and the answer names it; ``n=2`` is two requests of one; refusals at the door tell why; of what
    its caller does not sample nothing is told."""
    body: dict[str, Any] = {"model": MODEL, "prompt": "one two three", "max_tokens": 4, "n": 2, "ignore_eos": True}
    with open_client(served) as client:
        answer = await client.post("/v1/completions", json=body, headers={"traceparent": TRACEPARENT})
        assert (answer.status_code, answer.headers["traceresponse"][:36]) == (200, f"00-{TRACE}-")
        broken = await client.post("/v1/completions", json=body, headers={"traceparent": "00-something"})
        assert (broken.status_code, TRACE in broken.headers["traceresponse"]) == (200, False)
        refused = await client.post("/v1/completions", json=body | {"n": 100_000}, headers={"traceparent": TRACEPARENT})
        assert refused.status_code == 400
        unsampled = await client.post("/v1/completions", json=body, headers={"traceparent": f"{TRACEPARENT[:-2]}00"})
        assert (unsampled.status_code, "traceresponse" in unsampled.headers) == (200, False)
        assert (await client.get("/v1/models")).status_code == 200
        await client.aclose()
    await served.nothing_left()
    for worker in served.cluster.alive:
        await worker.close()
    exports.close()
    first, second, third = collector.named("POST /v1/completions")
    assert [len([span for span in collector.below(root) if span.name == "request"]) for root in (first, second, third)] == [2, 2, 0]
    assert (first.trace_id, first.attributes["http.response.status_code"]) == (TRACE, 200)
    assert third.attributes["baton.refusal.reason"] == "invalid"
    assert {span.service for span in collector.spans} == {"baton-router", "baton-worker"}
    assert len({span.trace_id for span in collector.spans}) == 2


async def test_prometheus_keeps_exemplars() -> None:
    """The real one, told to as docs/tracing.md says, finds the trace of a slow request in the histogram that shows it."""
    times = Spreads(TTFT)
    times.observe(0.7, "default")
    times.exemplify(0.7, TRACE, time.time(), "default")
    listener = MetricsListener(ReadingCollector(lambda: [times]), "127.0.0.1")
    static = [{"targets": [await listener.open()]}]
    config = {"scrape_configs": [{"job_name": "baton", "scrape_interval": "200ms", "scrape_timeout": "200ms", "static_configs": static}]}

    def looked() -> list[str]:
        with prometheus(config, None, "--enable-feature=exemplar-storage") as server:
            query: dict[str, str | float] = {"query": "baton_ttft_seconds_bucket", "start": time.time() - 60.0, "end": time.time() + 60.0}
            wait_until(lambda: server.get("query_exemplars", **query), 20.0, "an exemplar is stored")
            return [each["labels"]["trace_id"] for series in server.get("query_exemplars", **query) for each in series["exemplars"]]

    try:
        assert set(await asyncio.to_thread(looked)) == {TRACE}
    finally:
        listener.close()
