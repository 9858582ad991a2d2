"""A client that leaves, whenever it leaves, leaves nothing behind. A fixture of this folder checks that after each test."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import httpx
import pytest

from tests.e2e.answers import prompt_of
from tests.support.baton_process import MODEL, BatonServer
from tests.support.eventually import assert_eventually

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nothing_left_by_each")]

REQUESTS = 200
AT_ONCE = 16
LONG = 4000
"""Output tokens that nobody here waits for."""


def client_of(baton: BatonServer) -> httpx.AsyncClient:
    """Closing a stream of its closes the connection, at once."""
    return httpx.AsyncClient(base_url=f"{baton.url}/v1", timeout=120.0)


async def leave_after(client: httpx.AsyncClient, chunks: int, prompt: list[int], **asked: object) -> str:
    """Streams an answer and leaves after so many chunks; the request's id, if it was told."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": LONG, "stream": True, "ignore_eos": True, **asked}
    async with client.stream("POST", "/completions", json=body) as answer:
        assert answer.status_code == httpx.codes.OK
        seen = 0
        async for line in answer.aiter_lines():
            seen += line.startswith("data: ")
            if seen >= chunks:
                return str(httpx.Response(200, content=line.removeprefix("data: ")).json()["id"])
    return ""


@pytest.mark.parametrize("how", [{}, {"seed": 1, "temperature": 1.0}, {"n": 3, "temperature": 1.0}], ids=["plain", "held", "n=3"])
@pytest.mark.parametrize("chunks", [1, 2, 12])
async def test_leaving_a_stream(baton: BatonServer, chunks: int, how: dict[str, object]) -> None:
    """Right after the first token, while decode pulls; at its first token; in the middle."""
    async with client_of(baton) as client:
        request_id = await leave_after(client, chunks, prompt_of(600, 3000 + chunks), **how)
    await assert_eventually(lambda: all(t["outcome"] != "running" for t in baton.timelines(request_id)), 15.0, "the router knows")
    assert all(timeline["output_tokens"] < LONG for timeline in baton.timelines(request_id))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.1, 0.4])
async def test_leaving_before_an_answer(baton: BatonServer, stream: bool, after_s: float) -> None:
    """The connection is cut while the request is routed, prefills, is handed over, or decodes unseen: engines stop there."""
    body = {"model": MODEL, "prompt": prompt_of(2900, int(3100 + 1000 * after_s)), "max_tokens": 1100, "stream": stream, "ignore_eos": True}
    headers = {"x-request-id": f"leaving-{stream}-{after_s}"}
    async with client_of(baton) as client:
        sending = asyncio.create_task(client.post("/completions", json=body, headers=headers))
        await asyncio.wait([sending], timeout=after_s)
        assert not sending.done()
        sending.cancel()
        await asyncio.wait([sending])
    await assert_eventually(lambda: baton.get("/workers")["requests"] == 0, 15.0, "the router knows")
    for timeline in baton.get("/requests?limit=200")["timelines"]:
        if timeline["client_request"].startswith(f"cmpl-leaving-{stream}-{after_s}"):
            assert timeline["output_tokens"] < 1100, "computed to its end for nobody"


async def test_leaving_while_the_workers_are_full(baton: BatonServer) -> None:
    """Requests that wait behind others for a place in an engine are taken out of its queue."""
    async with client_of(baton) as client:
        leaving = [asyncio.create_task(leave_after(client, 10**6, prompt_of(1500, 3200 + number))) for number in range(40)]
        await assert_eventually(lambda: baton.get("/workers")["requests"] == 40, 30.0, "all have begun")
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)


async def test_a_third_of_many_leaves_at_random(baton: BatonServer) -> None:
    """Of 200 requests every third is cut at a random moment; all others are answered in full, and nothing is left."""
    chance = random.Random(33)
    places = asyncio.Semaphore(AT_ONCE)
    outcomes: Counter[str] = Counter()

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        tokens = chance.randrange(2, 24)
        body = {"model": MODEL, "prompt": prompt_of(chance.randrange(1, 400), 4000 + number), "max_tokens": tokens, "ignore_eos": True}
        body |= {"seed": number, "temperature": 1.0} if number % 5 == 0 else {"temperature": 0.0}
        patience_s = chance.uniform(0.0, 0.4) if number % 3 == 0 else None
        async with places:
            asking = asyncio.create_task(client.post("/completions", json={**body, "stream": number % 2 == 0}))
            await asyncio.wait([asking], timeout=patience_s)
            if not asking.done():
                asking.cancel()
                await asyncio.wait([asking])
                outcomes["left"] += 1
                return
        answer = asking.result()
        assert answer.status_code == httpx.codes.OK, answer.text
        if number % 2:
            assert answer.json()["usage"]["completion_tokens"] == tokens
        else:
            assert answer.text.rstrip().endswith("data: [DONE]")
        outcomes["answered"] += 1

    async with client_of(baton) as client, asyncio.TaskGroup() as tasks:
        for number in range(REQUESTS):
            tasks.create_task(ask(client, number))
    assert outcomes.total() == REQUESTS
    assert outcomes["left"] > REQUESTS // 10  # most of the 67 that might have
