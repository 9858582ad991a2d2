"""Workers that go without a client noticing, under real Ray with simulated engines: every cause of a drain, and drains that meet trouble.

Two prefill and two decode workers, two routers. On the way out of every test all workers are ready and nothing is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.support.cluster_process import BATON, MODEL, START_LIMIT_S, Cluster, detached_up, eventually, simulated_args

pytestmark = pytest.mark.integration

_ROUTER = "ray::ServeReplica:baton:Router"
STEP_S = 0.02
PROMPT = "The first runner hands the baton to the second, who has not stood still meanwhile. "
DRAIN_S = 8.0


def args(**router: Any) -> dict[str, Any]:
    """Leases that end, so that drains do, and time enough to finish what these tests ask for."""
    made = simulated_args(prefill=2, decode=2, routers=2, step_s=STEP_S)
    for pool in ("prefill", "decode"):
        made[pool]["drain_timeout_s"] = DRAIN_S
    made["kv_transfer"]["lease_s"] = 5
    made["router"] |= router
    return made


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with detached_up(args()) as cluster:
        eventually(cluster.all_ready, 30.0, "every router reaches every worker")
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    yield running
    eventually(running.all_ready, 60.0, "all workers are ready")
    eventually(lambda: not running.held(), 10.0, "nothing is held")


@pytest.fixture
async def load(cluster: Cluster) -> AsyncIterator[Load]:
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, timeout=120.0) as client:
        load = Load(client)
        yield load
        await load.end()


class Load:
    """Streams without end, some at once, each replaced when it is done. Nothing may go wrong with any of them."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client
        self._goes_on = True
        self._tasks: list[asyncio.Task[None]] = []
        self.wrong: list[str] = []
        self.done = 0

    def begin(self, streams: int = 4, tokens: int = 100) -> None:
        self._tasks = [asyncio.create_task(self._stream_on(number, tokens)) for number in range(streams)]

    async def end(self) -> None:
        """Lets what runs come to its end; fails if anything went wrong since the beginning."""
        self._goes_on = False
        await asyncio.gather(*self._tasks)
        assert not self.wrong, f"{len(self.wrong)} of {self.done + len(self.wrong)}: {self.wrong[:3]}"

    async def _stream_on(self, number: int, tokens: int) -> None:
        while self._goes_on:
            try:
                got = await self.stream(f"{number} {self.done} {PROMPT}", tokens)
            except (openai.APIError, httpx.HTTPError) as error:
                self.wrong.append(f"{error!r}: {error.__cause__!r}")
                await asyncio.sleep(0.2)
                continue
            if got == (tokens, "length"):
                self.done += 1
            else:
                self.wrong.append(f"{got[0]} tokens, then {got[1]}")

    async def stream(self, prompt: str, tokens: int) -> tuple[int, str | None]:
        """How many tokens came, and how it ended."""
        count, finish = 0, None
        async for chunk in await self._client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=tokens, temperature=0.0, stream=True, extra_body={"return_token_ids": True}
        ):
            for choice in chunk.choices:
                count += len(getattr(choice, "token_ids", None) or [])
                finish = choice.finish_reason or finish
        return count, finish


class Kept:
    """One connection, kept open between requests, that does not open another when it finds itself closed."""

    _BODY = f'{{"model": "{MODEL}", "prompt": "{PROMPT}", "max_tokens": 5}}'.encode()

    def __init__(self, cluster: Cluster) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", cluster.home.port, timeout=60.0)
        self._connection.connect()
        self._connection.auto_open = 0

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def ask(self) -> int:
        """One request, and its answer's status."""
        self.send_head()
        return self.send_body()

    def send_head(self) -> None:
        self._connection.putrequest("POST", "/v1/completions")
        self._connection.putheader("content-type", "application/json")
        self._connection.putheader("content-length", str(len(self._BODY)))
        self._connection.endheaders()

    def send_body(self) -> int:
        self._connection.send(self._BODY)
        with self._connection.getresponse() as answer:
            answer.read()
            return answer.status


async def until(check: Any, limit_s: float, what: str) -> None:
    await asyncio.to_thread(eventually, check, limit_s, what)


def names(cluster: Cluster, role: str | None = None) -> list[str]:
    return sorted(cluster.workers(role))


def states(cluster: Cluster) -> dict[str, str]:
    return {worker["worker"]: worker["state"] for worker in cluster.status()["workers"]}


def test_what_is_up_can_be_asked(cluster: Cluster) -> None:
    """``status`` tells of it, for people and as JSON; a second ``up`` says that there is one already."""
    second = cluster.home.baton("up", cluster.home.file(simulated_args()))
    assert second.returncode == 1
    assert "is up already" in second.stderr
    assert cluster.url in second.stderr

    told = cluster.home.baton("status", "--json")
    assert told.returncode == 0, told.stderr
    status = json.loads(told.stdout)
    assert status["wanted"] == {"prefill": 2, "decode": 2}
    assert Counter((worker["role"], worker["state"]) for worker in status["workers"]) == {("prefill", "ready"): 2, ("decode", "ready"): 2}
    for worker in status["workers"]:
        assert psutil.Process(worker["pid"]) in cluster.home.processes()
        assert worker["address"].startswith("tcp://127.0.0.1:")

    shown = cluster.home.baton("status")
    assert shown.returncode == 0, shown.stderr
    assert "prefill 2/2 ready, decode 2/2 ready" in shown.stdout
    for worker in status["workers"]:
        [row] = [line for line in shown.stdout.splitlines() if line.startswith(worker["worker"])]
        assert worker["address"] in row


async def test_sigterm_drains_a_worker(cluster: Cluster, load: Load) -> None:
    """Its process goes on until its streams are done; meanwhile it is out of service and its replacement starts; nobody notices."""
    load.begin()
    await until(lambda: all(worker["running"] for worker in cluster.workers("decode").values()), 20.0, "both decode")
    victim = names(cluster, "decode")[0]
    process = psutil.Process(cluster.workers()[victim]["pid"])
    process.terminate()
    await until(lambda: states(cluster).get(victim) == "draining", 5.0, "it drains")
    assert process.is_running()
    await until(lambda: victim not in states(cluster), DRAIN_S, "it is gone")
    await until(lambda: not process.is_running(), 10.0, "so is its process")
    await until(cluster.all_ready, 30.0, "its replacement is ready")
    assert not [failure for failure in cluster.status()["failures"] if failure["worker"] == victim]
    await load.end()
    assert load.done > 5


async def test_baton_drain_replaces_a_worker(cluster: Cluster, load: Load) -> None:
    """It says what happens, and returns when the pool is complete again. Streams twice as long as a drain may take go on elsewhere."""
    load.begin(streams=4, tokens=round(2 * DRAIN_S / STEP_S))
    await until(lambda: all(worker["running"] for worker in cluster.workers("decode").values()), 20.0, "both decode")
    before = names(cluster)
    victim = names(cluster, "decode")[0]
    drained = await asyncio.to_thread(cluster.home.baton, "drain", victim)
    assert drained.returncode == 0, drained.stderr
    assert re.search(rf"{victim} +draining", drained.stderr), drained.stderr
    assert re.search(rf"{victim} +is gone: drained", drained.stderr), drained.stderr
    after = names(cluster)
    assert victim not in after
    assert (len(after), len(set(after) & set(before))) == (4, 3)
    await load.end()


async def test_baton_drain_names_the_workers_there_are(cluster: Cluster) -> None:
    """When asked for one that is not there, or for none."""
    refused = await asyncio.to_thread(cluster.home.baton, "drain", "decode-nobody")
    assert refused.returncode == 1
    assert "there is no worker decode-nobody" in refused.stderr
    assert all(name in refused.stderr for name in names(cluster))
    assert (await asyncio.to_thread(cluster.home.baton, "drain")).returncode == 2


async def test_a_rolling_restart_under_load(cluster: Cluster, load: Load) -> None:
    """``--all``: every worker is another one afterwards, no two were away at once, and no request noticed."""
    load.begin()
    before = names(cluster)
    away: list[int] = []
    restarting = asyncio.create_task(asyncio.to_thread(cluster.home.baton, "drain", "--all"))
    while not restarting.done():
        away.append(len(before) - len(await asyncio.to_thread(names, cluster)))
        await asyncio.sleep(0.3)
    restarted = restarting.result()
    assert restarted.returncode == 0, restarted.stderr
    assert not set(before) & set(names(cluster))
    assert max(away) == 1
    await load.end()


async def test_a_drain_outlives_the_controller(cluster: Cluster, load: Load) -> None:
    """The next controller finds the worker draining and goes on with it."""
    load.begin(tokens=400)
    await until(lambda: all(worker["running"] for worker in cluster.workers("decode").values()), 20.0, "both decode")
    victim = names(cluster, "decode")[0]
    drained = asyncio.create_task(asyncio.to_thread(cluster.home.baton, "drain", victim))
    await until(lambda: states(cluster).get(victim) == "draining", 20.0, "it drains")
    [old] = cluster.home.titled("ray::ServeReplica:baton:Controller")
    old.kill()
    assert (await drained).returncode == 0
    assert victim not in names(cluster)
    await load.end()


async def test_a_new_configuration_of_workers_and_of_routers(cluster: Cluster, load: Load) -> None:
    """Each replaces only those it concerns, one after the other, while requests come and go."""
    address = (next(cluster.home.path.glob("baton-*/*/address"))).read_text()
    load.begin()
    before = names(cluster)
    routers = {router["router"] for router in await asyncio.to_thread(cluster.from_each_router, "/workers")}

    async def deploy(**changed: Any) -> None:
        file = cluster.home.file(changed)
        # A Ray that ``baton up`` has started wants a token.
        command: list[str | Path] = ["env", "RAY_AUTH_MODE=token", *BATON, "up", file, "--address", address]
        deployed = await asyncio.to_thread(cluster.home.run, *command, limit_s=START_LIMIT_S)
        assert deployed.returncode == 0, deployed.stderr

    def told() -> set[str]:
        return {router["router"] for router in cluster.from_each_router("/workers")}

    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(Kept(cluster)) for _ in range(4)]
        assert [await asyncio.to_thread(kept.ask) for kept in idle] == [200] * 4
        await deploy(**args(policy="baton"))
        await until(lambda: not told() & routers, 60.0, "both routers are others")
        await until(cluster.all_ready, 30.0, "and know the workers")
        assert [await asyncio.to_thread(kept.ask) for kept in idle] == [200] * 4  # over connections from before
    assert names(cluster) == before
    await load.end()

    others = told()
    load = Load(load._client)
    load.begin()
    changed = args(policy="baton")
    changed["decode"]["headroom_tokens"] = 128
    changed["prefill"]["surge"] = 1
    await deploy(**changed)
    decode = [name for name in before if name.startswith("decode")]
    await until(lambda: not set(decode) & set(states(cluster)), 120.0, "every decode worker is another one")
    await until(cluster.all_ready, 60.0, "all are ready")
    assert [name for name in names(cluster) if name.startswith("prefill")] == [name for name in before if name.startswith("prefill")]
    await load.end()
    assert others


async def test_a_router_dies_before_a_request_has_come_whole(cluster: Cluster) -> None:
    """Most clients send a request's body behind its head. Whichever router was to have it, another answers."""
    with contextlib.ExitStack() as stack:
        begun = [stack.enter_context(Kept(cluster)) for _ in range(8)]
        for kept in begun:
            kept.send_head()
        # Answered over a ninth connection: HAProxy has read the heads.
        await until(cluster.all_ready, 30.0, "all is well")
        cluster.home.titled(_ROUTER)[0].kill()
        assert await asyncio.gather(*(asyncio.to_thread(kept.send_body) for kept in begun)) == [200] * 8


async def test_a_router_dies_before_it_has_answered(cluster: Cluster) -> None:
    """Nobody has seen a word of those answers, so another router gives them."""
    router = cluster.home.titled(_ROUTER)[0]
    with contextlib.ExitStack() as stack:
        asked = [stack.enter_context(Kept(cluster)) for _ in range(8)]
        router.suspend()
        answers = [asyncio.create_task(asyncio.to_thread(kept.ask)) for kept in asked]
        await until(lambda: any(answer.done() for answer in answers), 20.0, "the other router answers")
        router.kill()
        assert await asyncio.gather(*answers) == [200] * 8
