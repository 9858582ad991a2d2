"""What is scraped, from the sockets of a whole data plane, read with Prometheus' own parser."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cluster.metrics_listener import MetricsListener
from cluster.worker_metrics import worker_listener
from core.metrics.catalogue import CATALOGUE, CHAPTERS
from core.metrics.entry import Kind
from core.metrics.exposition import ReadingCollector
from core.metrics.tally import Reading
from router.limits import Limits
from router.queue import QueueLimits
from router.readings import readings
from router.service import WantedService, serving
from tests.contract.engine_contract import prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import HOST, MiniCluster, MiniRouter, MiniWorker
from tests.support.router_server import MODEL, router_server

OF_ROUTERS = {entry.name for chapter in ("requests", "handoffs", "routers") for entry in CHAPTERS[chapter]}
OF_WORKERS = {entry.name for entry in CHAPTERS["workers"]}


@contextlib.asynccontextmanager
async def listening(*listeners: MetricsListener) -> AsyncIterator[list[str]]:
    """Their addresses."""
    try:
        yield [await listener.open() for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


def router_listener(router: MiniRouter) -> MetricsListener:
    registry = CollectorRegistry()
    registry.register(ReadingCollector(lambda: readings(router.dispatcher)))
    return MetricsListener(registry, HOST)


async def scraped(address: str) -> dict[str, list[Sample]]:
    """Samples by their metric, as one scrape finds them."""
    async with httpx.AsyncClient(timeout=20.0) as client:
        answer = await client.get(f"http://{address}/metrics")
    assert answer.status_code == 200
    found: dict[str, list[Sample]] = defaultdict(list)
    for family in text_string_to_metric_families(answer.text):
        found[family.name + ("_total" if family.type == "counter" else "")] += family.samples
    return found


def check_by_catalogue(found: dict[str, list[Sample]], of_all: frozenset[str] = frozenset()) -> None:
    """Whatever is told is in the catalogue, with its labels; ``of_all`` are labels that everything has besides."""
    for name, samples in found.items():
        if name.startswith("vllm:"):
            continue
        entry = CATALOGUE[name]
        for sample in samples:
            le = {"le"} if sample.name.endswith("_bucket") and entry.kind is Kind.HISTOGRAM else set()
            assert sample.labels.keys() == {*entry.labels, *of_all, *le}, sample


def of_worker_listener(worker: MiniWorker) -> MetricsListener:
    return worker_listener(worker.runtime, lambda: worker.role, HOST)


async def test_routers_and_workers_tell_the_whole_catalogue(cluster: MiniCluster) -> None:
    """After a handful of requests every metric of theirs is there with values, none that the catalogue lacks, and all labels are its."""
    await cluster.start(prefill=1, decode=1)
    workers = [of_worker_listener(worker) for worker in cluster.alive]
    async with listening(router_listener(cluster.router), *workers) as (of_router, *of_workers):
        with serving(WantedService(ttft_s=30.0)):
            for number in range(3):
                cluster.router.send(f"secret-{number}", prompt_of(40, 1), 8, client=f"secret-client-{number}")
        names = [f"secret-{number}" for number in range(3)]
        await cluster.router.finished(*names)
        cluster.router.dispatcher.tally.leg_refused(cluster.workers["decode-0"].name, cluster.workers["decode-0"].role)
        told = await scraped(of_router)
        assert {name for name, samples in told.items() if samples} == OF_ROUTERS
        check_by_catalogue(told)
        assert not [sample for samples in told.values() for sample in samples if "secret" in str(sample.labels)]
        for worker, address in zip(cluster.alive, of_workers, strict=True):
            of_worker = await scraped(address)
            assert {name for name in of_worker if not name.startswith("vllm:")} == OF_WORKERS
            check_by_catalogue(of_worker, frozenset({"worker", "role"}))
            whose = {(sample.labels["worker"], sample.labels["role"]) for samples in of_worker.values() for sample in samples}
            assert whose == {(worker.name, worker.role)}
            assert [sample.value for sample in of_worker["vllm:num_requests_running"]] == [0]


async def test_counts_are_what_happened(cluster: MiniCluster) -> None:
    """Requests, tokens, hand-overs and promises, from both ends of them."""
    await cluster.start(prefill=1, decode=1)
    decode = cluster.workers["decode-0"]
    async with listening(router_listener(cluster.router), of_worker_listener(decode)) as (router, worker):
        with serving(WantedService(ttft_s=30.0)):
            cluster.router.send("a", prompt_of(40, 1), 8)
            cluster.router.send("b", prompt_of(33, 2), 1)
        cluster.router.send("c", prompt_of(20, 3), 200)
        await cluster.router.finished("a", "b")
        cluster.router.cancel("c")
        await cluster.nothing_left()
        told, of_worker = await scraped(router), await scraped(worker)
        got = {name: {tuple(s.labels.values()): s.value for s in samples if s.value} for name, samples in told.items()}
        ended = got["baton_requests_total"]
        assert sum(value for labels, value in ended.items() if "finished" in labels) == 2
        assert sum(value for labels, value in ended.items() if "cancelled" in labels) == 1
        assert got["baton_objective_requests_total"] == {("default", "met"): 2}
        assert got["baton_arrivals_total"] == {("default",): 3}
        assert got["baton_prompt_tokens_total"] == {("default",): 93}
        [tokens] = got["baton_output_tokens_total"].values()
        assert tokens == sum(len(cluster.router.tokens(name)) for name in "abc") >= 9
        [moved] = got["baton_kv_transfer_bytes_total"].values()
        assert moved == decode.engine.stats.received_bytes
        assert of_worker["baton_worker_received_kv_bytes_total"][0].value == moved
        assert not got["baton_router_requests"]
        gaps = sum(s.value for s in told["baton_token_gap_seconds"] if s.name.endswith("_count"))
        firsts = sum(s.value for s in told["baton_ttft_seconds"] if s.name.endswith("_count"))
        assert gaps + firsts <= tokens
        assert firsts == 2 + bool(cluster.router.tokens("c"))


async def test_a_worker_that_left_takes_its_labels_along(cluster: MiniCluster) -> None:
    """And the request that lost it is counted as resumed."""
    await cluster.start(prefill=1, decode=2)
    async with listening(router_listener(cluster.router)) as [router]:
        cluster.router.send("a", prompt_of(40, 1), 300)
        await assert_eventually(lambda: len(cluster.router.tokens("a")) >= 3, 10.0, "its decode worker has begun")
        lost = cluster.worker(cluster.router.timeline("a").decode_worker)
        assert lost.name in str(await scraped(router))
        await lost.kill()
        await cluster.router.finished("a")
        cluster.tell()
        await cluster.all_up()
        told = await scraped(router)
        assert lost.name not in str(told)
        got = {name: {tuple(s.labels.values()): s.value for s in samples if s.value} for name, samples in told.items()}
        assert got["baton_resumed_requests_total"] == {("default", "finished"): 1}
        assert got["baton_engine_losses_total"] == {(): 1}


async def test_prometheus_is_told_whom_to_scrape() -> None:
    """What the controller knows, as it says it; 503 while it does not answer: Prometheus then keeps the list it has."""
    answers: list[list[dict[str, Any]]] = [[{"targets": ["h:1"], "labels": {"job": "baton"}}]]

    async def targets() -> list[dict[str, Any]]:
        return answers.pop()

    async with router_server(targets=targets) as server, httpx.AsyncClient(base_url=server.url) as client:
        told = await client.get("/v1/baton/targets")
        assert (told.status_code, told.json()) == (200, [{"targets": ["h:1"], "labels": {"job": "baton"}}])
        assert told.headers["content-type"] == "application/json"  # Prometheus takes no other
        assert (await client.get("/v1/baton/targets")).status_code == 503


async def test_who_is_refused_before_being_taken_in_is_counted() -> None:
    """At the gate, and where vLLM's server asks whether there is room: each is a request that did not get what it was promised."""
    full = Limits(queue=QueueLimits(max_requests=0))
    async with router_server(limits=full) as server, httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
        asked = {"model": MODEL, "prompt": "go", "max_tokens": 2}
        promised = {"x-baton-ttft-s": "30"}
        assert (await client.post("/v1/completions", json={**asked, "n": 5}, headers=promised)).status_code == 429
        assert (await client.post("/v1/completions", content=b"{}", headers={"x-baton-priority": "first"})).status_code == 400
        for worker in server.cluster.workers.values():
            await worker.kill()
        server.cluster.tell()
        await assert_eventually(server.dispatcher.nobody, 10.0, "nobody is ready")
        assert (await client.post("/v1/completions", json=asked, headers=promised)).status_code == 503
        tally = server.dispatcher.tally
        refused = {labels: cell.value for labels, cell in tally.refusals.cells.items() if cell.value}
        assert refused == {("default", "queue_full"): 5, ("", "invalid"): 1, ("default", "no_worker"): 1}
        assert {labels: cell.value for labels, cell in tally.objectives.cells.items() if cell.value} == {("default", "refused"): 6}


# -- the listener ------------------------------------------------------------------------------------------------------------


class Broken(ReadingCollector):
    def __init__(self) -> None:
        super().__init__(self._fail)

    def _fail(self) -> list[Reading]:
        raise RuntimeError("broken on purpose")


async def test_other_paths_and_methods_are_not_there() -> None:
    """404 for them; HEAD is answered without a body; Prometheus may ask for its newer format."""
    async with (
        listening(MetricsListener(CollectorRegistry(), HOST)) as [address],
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        assert (await client.get("/")).status_code == (await client.post("/metrics")).status_code == 404
        assert (await client.get("/metrics?name[]=up")).status_code == 200
        head = await client.head("/metrics")
        assert (head.status_code, head.content) == (200, b"")
        newer = await client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
        assert newer.headers["content-type"].startswith("application/openmetrics-text")
        assert newer.text == "# EOF\n"


async def test_an_address_of_another_machine() -> None:
    """Nobody listens, and nobody is told an address; the process goes on."""
    listener = MetricsListener(CollectorRegistry(), "198.51.100.7")
    assert await listener.open() == ""
    listener.close()


async def test_a_mistake_in_a_collector_is_said() -> None:
    """500: the process lives, and the next scrape is tried."""
    async with listening(MetricsListener(Broken(), HOST)) as [address], httpx.AsyncClient(base_url=f"http://{address}") as client:
        assert [(await client.get("/metrics")).status_code for _ in range(2)] == [500, 500]


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\n", b"\x16\x03\x01" * 20_000, b"\r\n\r\n", b"\xff\r\n\r\n"])
async def test_whoever_speaks_no_http_does_no_harm(said: bytes) -> None:
    """Nor does one who leaves in the middle of a word: the next is answered."""
    async with listening(MetricsListener(CollectorRegistry(), HOST)) as [address]:
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        assert await scraped(address) == {}


async def test_those_who_only_listen_are_few() -> None:
    """Connections that say nothing do not pile up, and end with the listener."""
    listener = MetricsListener(CollectorRegistry(), HOST)
    async with listening(listener) as [address]:
        host, port = address.split(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(40)]
        closed = [reader for reader, _ in silent[20:]]
        assert [await reader.read() for reader in closed] == [b""] * 20
    assert [await reader.read() for reader, _ in silent[:5]] == [b""] * 5
    for _, writer in silent:
        writer.close()
