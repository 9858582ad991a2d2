"""The whole stack under real Ray with simulated engines: two prefill and two decode workers, two routers, HAProxy, a controller.

On the way out of every test all workers are ready, no router has a request, and every block of every worker is free.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.support.cluster_process import MODEL, Cluster, cluster_up, eventually

pytestmark = pytest.mark.integration

STEP_S = 0.02
LONG = 300
"""Tokens of an answer that is still under way when a test does something to it: six seconds."""
PROMPT = "The first runner hands the baton to the second, who has not stood still meanwhile. "


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster_up(prefill=2, decode=2, routers=2, step_s=STEP_S) as cluster:
        eventually(cluster.all_ready, 30.0, "every router reaches every worker")
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    """The invariants hold on the way out of every test."""
    yield running
    eventually(running.all_ready, 60.0, "all workers are ready")
    left: list[str] = []

    def free() -> bool:
        left[:] = running.held()
        return not left

    eventually(free, 10.0, f"nothing is held: {left}")


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, timeout=120.0) as client:
        yield client


@dataclass
class Answer:
    """What a client got of one streamed completion."""

    id: str = ""
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    usage: Any = None
    error: Exception | None = None


async def stream(client: openai.AsyncOpenAI, prompt: str, max_tokens: int, into: Answer | None = None) -> Answer:
    """Streams a completion to its end; an error is part of the answer."""
    answer = into or Answer()
    try:
        chunks = await client.completions.create(
            model=MODEL,
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"return_token_ids": True},
        )
        async for chunk in chunks:
            answer.id, answer.usage = chunk.id, chunk.usage or answer.usage
            for choice in chunk.choices:
                answer.tokens += getattr(choice, "token_ids", None) or []
                answer.text += choice.text
                answer.finish = choice.finish_reason or answer.finish
    except (openai.APIError, httpx.HTTPError) as error:
        answer.error = error
    return answer


async def streaming(client: openai.AsyncOpenAI, count: int) -> tuple[list[Answer], list[asyncio.Task[Answer]]]:
    """Starts long streams; returns once every one of them has tokens from its decode worker."""
    answers = [Answer() for _ in range(count)]
    tasks = [asyncio.create_task(stream(client, f"{PROMPT} {n}", LONG, answers[n])) for n in range(count)]
    await until(lambda: all(len(answer.tokens) >= 3 for answer in answers), 20.0, "every stream has begun")
    assert not [task for task in tasks if task.done()]
    return answers, tasks


async def until(check: Any, limit_s: float, what: str) -> None:
    await asyncio.to_thread(eventually, check, limit_s, what)


async def serves(client: openai.AsyncOpenAI) -> None:
    """A request is answered in full."""
    answer = await stream(client, PROMPT, 8)
    assert (answer.error, answer.finish, len(answer.tokens)) == (None, "length", 8)


def kill(cluster: Cluster, *workers: str) -> None:
    """SIGKILL for the workers with these names."""
    known = cluster.workers()
    for worker in workers:
        psutil.Process(known[worker]["pid"]).kill()


# -- serving -----------------------------------------------------------------------------------------------------------------


async def test_requests_are_split_and_every_worker_gets_some(cluster: Cluster, client: openai.AsyncOpenAI) -> None:
    """Each request is prefilled on one worker and decoded on another with the first one's KV; none of the four is starved."""
    answers = await asyncio.gather(*(stream(client, f"{PROMPT * 3} {n}", 16) for n in range(16)))
    workers: Counter[str] = Counter()
    for answer in answers:
        [timeline] = cluster.timeline(answer.id)
        assert timeline["outcome"] == "finished"
        assert timeline["was_split"], timeline["plan_reason"]
        assert timeline["was_transferred"]
        assert timeline["transfer_bytes"] > 0
        assert timeline["output_tokens"] == 16
        workers.update([timeline["prefill_worker"], timeline["decode_worker"]])
    assert set(workers) == set(cluster.workers())
    roles = {name: worker["role"] for name, worker in cluster.workers().items()}
    assert {role: sum(workers[name] for name in roles if roles[name] == role) for role in ("prefill", "decode")} == {
        "prefill": 16,
        "decode": 16,
    }


async def test_streaming_chat(client: openai.AsyncOpenAI) -> None:
    """A role first, then text in many pieces, then a finish reason, then usage; the same text as without streaming."""
    messages: list[Any] = [{"role": "system", "content": "You run."}, {"role": "user", "content": "Where is the baton?"}]
    asked: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": 24, "temperature": 0.0}
    chunks = [c async for c in await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})]
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in choices][-1] == "length"
    assert len(choices) > 12
    whole = await client.chat.completions.create(**asked)
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert whole.usage is not None
    assert (whole.usage.completion_tokens, chunks[-1].usage.completion_tokens) == (24, 24)
    assert whole.usage.prompt_tokens == chunks[-1].usage.prompt_tokens > 8


async def test_three_choices(cluster: Cluster, client: openai.AsyncOpenAI) -> None:
    """``n=3`` is three requests to the cluster and one answer to the client."""
    answer = await client.completions.create(model=MODEL, prompt=PROMPT, n=3, max_tokens=12)
    assert sorted(choice.index for choice in answer.choices) == [0, 1, 2]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 36
    assert [timeline["outcome"] for timeline in cluster.timeline(answer.id)] == ["finished"] * 3


async def test_sixty_streams_at_once_are_sixty_streams_alone(cluster: Cluster, client: openai.AsyncOpenAI) -> None:
    """Each gets exactly the tokens it gets when it is alone, all of them, and is told how many; both routers had some."""
    prompts = [f"{n} {PROMPT * (n % 4 + 1)}" for n in range(60)]
    together = await asyncio.gather(*(stream(client, prompt, 24) for prompt in prompts))
    assert [(a.error, a.finish, len(a.tokens)) for a in together] == [(None, "length", 24)] * 60
    assert [a.usage.completion_tokens for a in together] == [24] * 60
    for n in range(0, 60, 6):
        alone = await stream(client, prompts[n], 24)
        assert alone.tokens == together[n].tokens
        assert alone.text == together[n].text
        assert alone.usage.prompt_tokens == together[n].usage.prompt_tokens
    had = {router["router"]: len(router["timelines"]) for router in cluster.from_each_router("/requests?limit=200")}
    assert all(count > 0 for count in had.values()), had


async def test_any_router_tells_why(cluster: Cluster, client: openai.AsyncOpenAI) -> None:
    """Of a request that one of them had."""
    answer = await client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=4)
    had: dict[str, str] = {}

    def both_asked() -> bool:
        told = httpx.get(f"{cluster.url}/v1/baton/decisions/{answer.id}", timeout=30.0)  # each time whichever router Serve likes
        assert told.status_code == 200, told.text
        had[told.headers["x-baton-router"]] = told.json()["router"]
        return len(had) == cluster.routers

    eventually(both_asked, 60.0, "every router was asked")
    assert len(set(had.values())) == 1, had


async def test_refusals_are_the_apis_own(client: openai.AsyncOpenAI) -> None:
    """An unknown model is a 404, a bad value a 400 that names it, a prompt that is too long a 400."""
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        await client.completions.create(model="no-such-model", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await client.completions.create(model=MODEL, prompt=PROMPT, temperature=-1.0)
    with pytest.raises(openai.BadRequestError, match="4096"):
        await client.completions.create(model=MODEL, prompt=PROMPT * 400, max_tokens=8)


async def test_clients_that_leave_leave_nothing(cluster: Cluster, client: openai.AsyncOpenAI) -> None:
    """At any step, streaming or not: everything is free again soon after, on every worker (the fixture looks)."""
    randomly = random.Random(3)

    async def leave(n: int) -> None:
        asked = {"model": MODEL, "prompt": f"{n} {PROMPT * (n % 5 + 1)}", "max_tokens": LONG, "stream": n % 3 > 0}
        chunks = randomly.choice([0, 1, 2, 10])
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(randomly.uniform(0.0, 1.5)),
                httpx.AsyncClient() as impatient,
                impatient.stream("POST", f"{cluster.url}/v1/completions", json=asked) as answer,
            ):
                async for _ in answer.aiter_lines():
                    chunks -= 1
                    if chunks < 0:
                        return

    staying = asyncio.create_task(stream(client, PROMPT, 40))
    await asyncio.gather(*(leave(n) for n in range(45)))
    stayed = await staying
    assert (stayed.error, len(stayed.tokens)) == (None, 40)


# -- deaths ------------------------------------------------------------------------------------------------------------------


async def test_a_decode_worker_is_killed(cluster: Cluster, client: openai.AsyncOpenAI) -> None:
    """Its requests pause and go on on the other one, token for token, streamed or not; another worker takes its place."""
    before = cluster.workers()
    undisturbed = await asyncio.gather(*(stream(client, f"{PROMPT} {n}", LONG) for n in range(8)))
    answers, tasks = await streaming(client, 8)
    unstreamed = [
        asyncio.create_task(client.completions.create(model=MODEL, prompt=f"{n} {PROMPT}", max_tokens=LONG, timeout=60.0)) for n in range(6)
    ]
    await until(lambda: sum(worker["running"] for worker in cluster.workers("decode").values()) == 14, 10.0, "all are decoding")
    victim = next(iter(cluster.workers("decode")))
    kill(cluster, victim)
    await asyncio.gather(*tasks)
    assert [(answer.error, answer.finish, answer.tokens) for answer in answers] == [(None, "length", alone.tokens) for alone in undisturbed]
    assert [answer.text for answer in answers] == [alone.text for alone in undisturbed]
    assert [answer.usage.completion_tokens for answer in answers] == [LONG] * 8
    timelines = [cluster.timeline(answer.id)[0] for answer in answers]
    moved = [timeline for timeline in timelines if timeline["resumes"]]
    assert 0 < len(moved) < 8
    assert {timeline["losses"] for timeline in moved} == {1}
    assert victim not in {timeline["decode_worker"] for timeline in timelines}
    for task in unstreamed:
        answer = await task
        assert answer.usage is not None
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (LONG, "length")

    await until(lambda: len(cluster.workers("decode")) == 2, 60.0, "the worker was replaced")
    [new] = [worker for name, worker in cluster.workers("decode").items() if name not in before]
    assert victim not in cluster.workers()
    assert new["epoch"] > max(worker["epoch"] for worker in before.values())
    assert new["restarts"] == before[victim]["restarts"] + 1
    assert any(failure["worker"] == victim and failure["was_ready"] for failure in cluster.status()["failures"])


async def test_a_prefill_worker_is_killed(cluster: Cluster, client: openai.AsyncOpenAI) -> None:
    """Streams that it has handed over go on; what it had not begun or finished is prefilled by the other one."""
    _, handed_over = await streaming(client, 4)
    arriving = [asyncio.create_task(stream(client, f"{n} {PROMPT * 20}", 16)) for n in range(24)]
    kill(cluster, next(iter(cluster.workers("prefill"))))
    arriving += [asyncio.create_task(stream(client, f"later {n} {PROMPT}", 16)) for n in range(4)]
    assert [(a.error, len(a.tokens)) for a in await asyncio.gather(*arriving)] == [(None, 16)] * 28
    assert [(a.error, len(a.tokens)) for a in await asyncio.gather(*handed_over)] == [(None, LONG)] * 4


async def test_whole_pools_are_killed(cluster: Cluster, client: openai.AsyncOpenAI) -> None:
    """Without decode workers, prefill workers serve alone; without any, requests are held until there is one again, by itself."""
    kill(cluster, *cluster.workers("decode"))

    def sees(role: str, count: int) -> bool:
        routers = cluster.from_each_router("/workers")
        return all(sum(worker["role"] == role for worker in router["workers"]) == count for router in routers)

    await until(lambda: sees("decode", 0), 10.0, "no router sees a decode worker")
    answer = await stream(client, PROMPT, 8)
    assert (answer.error, len(answer.tokens)) == (None, 8)
    [timeline] = cluster.timeline(answer.id)
    assert not timeline["was_split"]
    assert timeline["plan_reason"] == "one worker: no decode worker is ready"
    assert timeline["decode_worker"] in cluster.workers("prefill")

    kill(cluster, *cluster.workers())
    await until(lambda: sees("prefill", 0), 10.0, "no router sees a prefill worker")
    answer = await stream(client, PROMPT, 8)
    assert (answer.error, len(answer.tokens)) == (None, 8)
    await until(cluster.all_ready, 90.0, "all workers are ready again")
    await serves(client)


async def test_the_controller_is_killed(cluster: Cluster, client: openai.AsyncOpenAI) -> None:
    """Requests are served meanwhile; the new controller adopts the same workers and answers again."""
    before = {name: (worker["epoch"], worker["pid"], worker["restarts"]) for name, worker in cluster.workers().items()}
    _, under_way = await streaming(client, 4)
    [old] = cluster.home.titled("ray::ServeReplica:baton:Controller")
    old.kill()
    while not (new := [p for p in cluster.home.titled("ray::ServeReplica:baton:Controller") if p.pid != old.pid]):
        await serves(client)
    assert new
    assert [(a.error, len(a.tokens)) for a in await asyncio.gather(*under_way)] == [(None, LONG)] * 4
    await until(cluster.all_ready, 60.0, "the controller answers")
    assert {name: (worker["epoch"], worker["pid"], worker["restarts"]) for name, worker in cluster.workers().items()} == before
    await serves(client)


async def test_a_router_is_killed(cluster: Cluster, client: openai.AsyncOpenAI) -> None:
    """Its clients see their connection break, the other router's see nothing; workers free what was its; Serve starts another."""
    routers = {router["router"] for router in cluster.from_each_router("/workers")}
    answers, tasks = await streaming(client, 12)
    victim, *_ = cluster.home.titled("ray::ServeReplica:baton:Router")
    victim.kill()
    await asyncio.gather(*tasks)
    broken = [answer for answer in answers if answer.error is not None]
    assert 0 < len(broken) < 12
    assert {(answer.finish, len(answer.tokens)) for answer in answers if answer.error is None} == {("length", LONG)}
    assert all(answer.finish is None for answer in broken)
    await serves(client)
    await until(lambda: all(w["free_blocks"] == w["num_blocks"] for w in cluster.workers().values()), 20.0, "every block is free")
    await until(lambda: len({r["router"] for r in cluster.from_each_router("/workers")} | routers) == 3, 60.0, "there is a new router")
