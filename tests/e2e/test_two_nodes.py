"""Two machines with real engines: a prompt's KV is pulled by NIXL from one address to the other, over the network card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.e2e.answers import client_of, prompt_of
from tests.support.baton_process import ARGS, MODEL
from tests.support.cluster_process import Cluster, eventually
from tests.support.machines import why_not
from tests.support.net_nodes import NetNodes, net_nodes

WHY_NOT = why_not()
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

LENGTHS = [700, 2500]


@pytest.fixture(scope="module", autouse=True)
def serves() -> None:
    """In the place of the package's: not on its Baton."""


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> None:
    """Likewise; what is held is looked at below."""


@pytest.fixture(autouse=True)
def nothing_known_to_be_left() -> None:
    """Likewise."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[NetNodes]:
    with net_nodes() as nodes:
        nodes.add("head", cpus=2, resources={"prefill_here": 1})
        nodes.add("other", resources={"decode_here": 1})
        args = {name: value for name, value in ARGS.items() if name != "host"}  # each worker has its node's own address
        args["prefill"] = {"count": 1, "num_cpus": 0, "resources": {"prefill_here": 1}}
        args["decode"] = {"count": 1, "num_cpus": 0, "resources": {"decode_here": 1}}
        nodes.up(args)
        yield nodes


def test_kv_goes_from_one_address_to_the_other(nodes: NetNodes) -> None:
    """Decode's machine receives at least the bytes that engine, router and timeline say, and none of its prompts is computed there."""
    cluster = Cluster(nodes, nodes.url, routers=1)  # type: ignore[arg-type]  # of a Home it wants nothing that is used here
    eventually(cluster.all_ready, 60.0, "the router reaches both")
    [prefill] = cluster.workers("prefill").values()
    [decode] = cluster.workers("decode").values()
    assert [urlsplit(worker["address"]).hostname for worker in (prefill, decode)] == [node.address for node in nodes.nodes.values()]
    other, before = nodes.nodes["other"], nodes.nodes["other"].received_bytes()
    with client_of(nodes.url) as client:
        answers = [client.completions.create(model=MODEL, prompt=prompt_of(tokens, 7), max_tokens=5, temperature=0.0) for tokens in LENGTHS]
    timelines = [cluster.timeline(answer.id)[0] for answer in answers]
    assert all(timeline["was_transferred"] for timeline in timelines)
    assert [timeline["transferred_tokens"] for timeline in timelines] == LENGTHS
    moved = sum(timeline["transfer_bytes"] for timeline in timelines)
    assert moved > 0
    assert other.received_bytes() - before >= moved
    eventually(lambda: [w["received_bytes"] for w in cluster.workers("decode").values()] == [moved], 10.0, "the engine's own count agrees")
    eventually(lambda: not cluster.held(), 15.0, "nothing is held")


def test_the_doctor_pulls_by_nixl_between_them(nodes: NetNodes) -> None:
    """Both ways, with engines running beside it; and it says how fast."""
    before = nodes.nodes["other"].received_bytes()
    found = nodes.baton("doctor", str(nodes.file), "--address", nodes.ray_address, "--json", limit_s=300.0)
    lines = [line for line in json.loads(found.stdout)["lines"] if line["check"] == "link"]
    head, other = (node.address for node in nodes.nodes.values())
    assert sorted(line["where"] for line in lines) == sorted([f"{head} to {other}", f"{other} to {head}"])
    assert all(line["found"].startswith("NIXL ") for line in lines), found.stdout
    assert nodes.nodes["other"].received_bytes() - before > 64 << 20
