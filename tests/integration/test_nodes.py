"""Several machines: Ray nodes with addresses of their own, workers placed by resources, one that loses power, one that is added.

The head has routers, the controller and the prefill worker; the decode workers are on two other machines. Tests follow each other: the
last takes a machine away. Real engines across machines: e2e/test_two_nodes.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.cluster_process import MODEL, Cluster, eventually, simulated_args
from tests.support.machines import why_not
from tests.support.net_nodes import NetNodes, net_nodes

WHY_NOT = why_not()
pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

STREAMS = 6
TOKENS = 300
"""Of each answer: six seconds, in which a machine can be lost."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[NetNodes]:
    with net_nodes() as nodes:
        nodes.add("head", cpus=4, resources={"prefill_here": 1})
        nodes.add("one", resources={"decode_here": 1})
        nodes.add("two", resources={"decode_here": 1})
        args = simulated_args(step_s=0.02)
        del args["host"]  # each worker has its node's own address
        args["prefill"] = {"count": 1, "num_cpus": 0, "resources": {"prefill_here": 1}}
        args["decode"] = {"count": 2, "num_cpus": 0, "resources": {"decode_here": 1}}
        nodes.up(args)
        yield nodes


@pytest.fixture
def cluster(nodes: NetNodes) -> Cluster:
    cluster = Cluster(nodes, nodes.url, routers=1)  # type: ignore[arg-type]  # of a Home it wants nothing that is used here
    eventually(cluster.all_ready, 30.0, "every router reaches every worker")
    return cluster


async def ask(url: str, prompt: str, tokens: int) -> dict[str, Any]:
    """A completion in full; anything but 200 fails."""
    async with httpx.AsyncClient(timeout=300.0) as client:
        asked = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "return_token_ids": True}
        answer = await client.post(f"{url}/v1/completions", json=asked)
        assert answer.status_code == httpx.codes.OK, answer.text
        told: dict[str, Any] = answer.json()
        return told


def is_given_up(cluster: Cluster, worker: str) -> bool:
    """Whether the controller says that it is not there; not while the controller does not answer."""
    with contextlib.suppress(httpx.HTTPError):
        return worker not in cluster.workers()
    return False


def test_every_worker_has_the_address_of_its_own_node(nodes: NetNodes, cluster: Cluster) -> None:
    """Each pool is where its resources are; what routers and Prometheus are told of a worker is its own node's address."""
    placed = {worker["node"]: worker["role"] for worker in cluster.workers().values()}
    by_name = {name: node.address for name, node in nodes.nodes.items()}
    assert placed == {by_name["head"]: "prefill", by_name["one"]: "decode", by_name["two"]: "decode"}
    for worker in cluster.workers().values():
        assert urlsplit(worker["address"]).hostname == worker["node"]
    targets = [target for group in httpx.get(f"{nodes.url}/v1/baton/targets").json() for target in group["targets"]]
    assert {target.rpartition(":")[0] for target in targets} == set(by_name.values())


async def test_requests_are_answered_across_nodes(nodes: NetNodes, cluster: Cluster) -> None:
    """Prompts are computed on one machine, answers made on two others; KV comes over the network card, as the timeline says."""
    before = {name: node.received_bytes() for name, node in nodes.nodes.items()}
    answers = await asyncio.gather(*(ask(nodes.url, f"{'Pass it on. ' * 40}{n}", 20) for n in range(STREAMS)))
    assert [len(answer["choices"][0]["token_ids"]) for answer in answers] == [20] * STREAMS
    timelines = [(await asyncio.to_thread(cluster.timeline, answer["id"]))[0] for answer in answers]
    assert all(timeline["was_split"] and timeline["was_transferred"] for timeline in timelines)
    assert all(nodes.nodes[name].received_bytes() > before[name] for name in ("one", "two"))


def test_the_doctor_sees_every_node_and_the_ways_between_them(nodes: NetNodes, cluster: Cluster) -> None:
    """Of a running cluster: each node's lines, a ring of links with real bytes, and clocks that agree, for they are one."""
    found = nodes.baton("doctor", str(nodes.file), "--address", nodes.ray_address, "--json", limit_s=300.0)
    assert found.returncode == 0, found.stdout + found.stderr
    lines = json.loads(found.stdout)["lines"]
    addresses = [node.address for node in nodes.nodes.values()]
    assert [line["where"] for line in lines if line["check"] == "versions"] == addresses
    assert {line["where"] for line in lines if line["check"] == "link"} == {
        f"{keeper} to {reader}" for reader, keeper in zip(addresses, [*addresses[1:], addresses[0]], strict=True)
    }
    assert all("Gb/s" in line["found"] for line in lines if line["check"] == "link")
    verdicts = {(line["check"], line["where"]): line["verdict"] for line in lines}
    assert verdicts["clocks", "cluster"] == "ok"
    assert verdicts["Ray's environment", addresses[1]] == "ok"
    assert verdicts["ports", addresses[0]] == "warn", "Serve has its port already"


async def test_a_machine_is_lost_and_another_one_comes(nodes: NetNodes, cluster: Cluster) -> None:
    """Power is lost under running streams: every one is answered in full. Its worker is given up, and comes again on a new machine."""
    one = nodes.nodes["one"]
    [lost] = [name for name, worker in cluster.workers("decode").items() if worker["node"] == one.address]
    asked = [asyncio.create_task(ask(nodes.url, f"{'Run on. ' * 20}{n}", TOKENS)) for n in range(STREAMS)]
    try:
        await asyncio.to_thread(eventually, lambda: cluster.workers()[lost]["running"] > 0, 30.0, "the worker has requests")
        await asyncio.to_thread(one.lose_power)
        answers = await asyncio.gather(*asked)
    finally:
        for task in asked:
            task.cancel()
    assert [(len(answer["choices"][0]["token_ids"]), answer["choices"][0]["finish_reason"]) for answer in answers] == [
        (TOKENS, "length")
    ] * STREAMS
    await asyncio.to_thread(eventually, lambda: is_given_up(cluster, lost), 60.0, "its worker is given up")
    three = await asyncio.to_thread(nodes.add, "three", resources={"decode_here": 1})
    await asyncio.to_thread(eventually, cluster.all_ready, 60.0, "both pools are whole again")
    assert three.address in {worker["node"] for worker in cluster.workers("decode").values()}
    assert len((await ask(nodes.url, "Once more.", 5))["choices"][0]["token_ids"]) == 5
