"""Requests that come while nobody serves: held where somebody is coming, refused at once where nobody is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from vllm.v1.engine import FinishReason

from cluster.coming import Coming
from core.metrics.exposition import family_of
from core.worker import Role, WorkerState
from router.cluster_client import ClusterClient
from router.events import FailKind
from router.instructions import Fail
from router.limits import Limits
from router.queue import QueueLimits
from router.readings import readings
from router.service import WantedService, serving
from tests.contract.engine_contract import prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import MiniCluster, MiniRouter
from tests.support.router_server import MODEL, RouterServer, open_client, router_server
from tests.support.sampling import COUNTS, expected


def failure(router: MiniRouter, name: str) -> Fail:
    found = router.dispatcher.take_failure(f"client-{name}")
    assert found is not None
    return found


async def told(router: MiniRouter, nobody: str | None) -> None:
    """The router has heard who is coming."""
    await assert_eventually(lambda: router.dispatcher.nobody() == nobody, what=f"it is told: {nobody}")


NONE = "no worker is ready, and none is coming"


@pytest.mark.parametrize("coming", [Coming(workers=1), Coming(on_demand=True), Coming(1, 5.0)], ids=["one starts", "asleep", "soon"])
async def test_the_first_worker_gets_all_that_were_held(cluster: MiniCluster, coming: Coming) -> None:
    """In order of their coming, whatever time to the first token they were promised; and meanwhile they count as demand."""
    cluster.coming = coming
    await cluster.start(prefill=0, decode=0, policy="baton")
    await told(cluster.router, None)
    names = ["a", "b", "c"]
    for name in names:
        with serving(WantedService(ttft_s=0.001)):
            assert cluster.router.dispatcher.refusal(WantedService(ttft_s=0.001)) is None
            cluster.router.send(name, prompt_of(20, 1), 8, **COUNTS)
    known = {sample.name: sample.value for reading in readings(cluster.router.dispatcher) for sample in family_of(reading).samples}
    assert (known["baton_router_waiting_requests"], known["baton_router_waiting_tokens"], known["baton_arrivals_total"]) == (3, 60, 3)
    await assert_eventually(lambda: cluster.router.dispatcher.oldest_waiting_s > 0.1, what="longer than is promised")
    assert len(cluster.router.dispatcher.queue) == 3
    await cluster.add_worker("decode-0", Role.DECODE, max_num_seqs=1)
    cluster.coming = Coming()
    cluster.tell()
    await cluster.router.finished(*names)
    assert [cluster.router.tokens(name) for name in names] == [expected(prompt_of(20, 1), 8)] * 3
    assert [name for name in cluster.router.outputs if name in names] == names
    assert min(cluster.router.timeline(name).waited_s for name in names) > 0.1


async def test_nobody_is_coming(cluster: MiniCluster) -> None:
    """It ends at once, and says so."""
    await cluster.start(prefill=0, decode=0)
    await told(cluster.router, NONE)
    cluster.router.send("a", prompt_of(20, 1), 4)
    assert cluster.router.ends("a") == [FinishReason.ERROR]
    fail = failure(cluster.router, "a")
    assert (fail.kind, fail.reason) == (FailKind.UNAVAILABLE, NONE)


async def test_who_was_coming_does_not(cluster: MiniCluster) -> None:
    """Those that wait for nobody any more are told; those that came too late for it are told how long they waited."""
    cluster.coming = Coming(workers=1)
    await cluster.start(prefill=0, decode=0, limits=Limits(queue=QueueLimits(max_start_wait_s=0.6)))
    await told(cluster.router, None)
    cluster.router.send("a", prompt_of(20, 1), 4)
    assert len(cluster.router.dispatcher.queue) == 1
    await cluster.router.finished("a")
    fail = failure(cluster.router, "a")
    assert fail.kind is FailKind.UNAVAILABLE
    assert fail.reason.startswith("no worker was ready for")

    cluster.router.send("b", prompt_of(20, 1), 4)
    cluster.coming = Coming()
    cluster.tell()
    await cluster.router.finished("b")
    assert failure(cluster.router, "b").reason == NONE


async def test_a_client_that_leaves_leaves_the_queue(cluster: MiniCluster) -> None:
    """At once, and what it had asked for is demand no more."""
    cluster.coming = Coming(on_demand=True)
    await cluster.start(prefill=0, decode=0)
    await told(cluster.router, None)
    cluster.router.send("a", prompt_of(20, 1), 4)
    cluster.router.cancel("a")
    assert (len(cluster.router.dispatcher.queue), cluster.router.dispatcher.queue.tokens) == (0, 0)
    assert cluster.router.timeline("a").outcome == "cancelled"


async def test_the_last_worker_goes_to_sleep_under_a_queue(cluster: MiniCluster) -> None:
    """Those that waited for room wait for the next worker then, for as long as that takes."""
    limits = Limits(queue=QueueLimits(max_wait_s=0.5))
    await cluster.start(prefill=0, decode=1, limits=limits, max_num_seqs=1)
    worker = cluster.worker("decode-0")
    worker.gate.shut()
    cluster.router.send("first", prompt_of(20, 1), 8, **COUNTS)
    cluster.router.send("second", prompt_of(20, 2), 8, **COUNTS)
    assert len(cluster.router.dispatcher.queue) == 1
    cluster.coming = Coming(workers=1)
    cluster.tell(decode_0=WorkerState.DRAINING)
    await assert_eventually(lambda: cluster.router.dispatcher.oldest_waiting_s > 0.7, what="longer than it would have waited for room")
    assert len(cluster.router.dispatcher.queue) == 1
    worker.gate.open()
    await cluster.add_worker("decode-1", Role.DECODE)
    cluster.tell(decode_0=WorkerState.DRAINING)
    await cluster.router.finished("first", "second")
    assert cluster.router.tokens("second") == expected(prompt_of(20, 2), 8)


# -- over HTTP ---------------------------------------------------------------------------------------------------------------

_MESSAGES = [{"role": "user", "content": "hi"}]
APIS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "one two"},
    "/v1/chat/completions": {"messages": _MESSAGES},
    "/v1/messages": {"messages": _MESSAGES},
}


@pytest.fixture(name="served")
async def _served() -> AsyncIterator[RouterServer]:
    async with router_server() as server:
        yield server


async def test_what_clients_get(served: RouterServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 and when to come again, at the door; from every API, streamed or not, also for who was let in at the instant in which the last
    worker went. A wait that would be too long is not begun, and Retry-After says how long it would have been."""
    served.cluster.directory.tell([])
    await assert_eventually(lambda: not served.dispatcher.view(), what="nobody is there")
    body: dict[str, Any] = {"model": MODEL, "max_tokens": 4}
    with open_client(served) as client:
        at_the_door = await client.post("/v1/completions", json=body | {"prompt": "one"})
        assert (at_the_door.status_code, at_the_door.headers["retry-after"]) == (503, "5")
        assert "none is coming" in at_the_door.json()["error"]["message"]
        served.cluster.directory.tell([], Coming(1, 400.0))
        await assert_eventually(lambda: served.dispatcher.retry_after_s() > 100.0, what="it is told")
        too_long = await client.post("/v1/completions", json=body | {"prompt": "one"})
        assert (too_long.status_code, int(too_long.headers["retry-after"]) > 300) == (503, True)
        assert "a request waits for 120 s at most" in too_long.json()["error"]["message"]
        monkeypatch.setattr(ClusterClient, "check_admission", lambda self, requests: None)
        served.cluster.directory.tell([])
        await assert_eventually(lambda: served.dispatcher.retry_after_s() < 100.0, what="it is told")
        for path, asked in APIS.items():
            for stream in (False, True):
                answer = await client.post(path, json=body | asked | {"stream": stream})
                assert (path, stream, answer.status_code, answer.headers.get("retry-after")) == (path, stream, 503, "5")
                assert "none is coming" in answer.json()["error"]["message"]
        await client.aclose()
