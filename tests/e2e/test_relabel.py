"""A worker with a real engine changes pools under load: nobody gets an error, or another token."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import Mapping
from typing import Any

import openai
import pytest

from tests.e2e.answers import async_client_of, prompt_of, token_ids
from tests.support.baton_process import ARGS, MODEL, BatonServer
from tests.support.cluster_process import BATON

pytestmark = pytest.mark.e2e

SERVED = {**ARGS, "prefill": {**ARGS["prefill"], "count": 2}}
"""One worker more than most modules have."""
PROMPTS = [prompt_of(140 + 30 * number, 7100 + number) for number in range(24)]
TOKENS = 40
AT_ONCE = 6


def asked(prompt: list[int]) -> dict[str, Any]:
    settings = {"model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.0}
    return {**settings, "extra_body": {"ignore_eos": True, "return_token_ids": True}}


class Load:
    """Requests without end, some at once. Each answer is held against the reference's."""

    def __init__(self, client: openai.AsyncOpenAI, expected: list[list[int]]) -> None:
        self._client = client
        self._expected = expected
        self._numbers = itertools.count()
        self.answered: list[str] = []

    async def run(self, enough: asyncio.Event) -> None:
        """Until there was enough of it; raises at the first error."""
        while not enough.is_set():
            number = next(self._numbers) % len(PROMPTS)
            answer = await self._client.completions.create(**asked(PROMPTS[number]))
            assert token_ids(answer) == [self._expected[number]]
            self.answered.append(answer.id)

    async def more(self, count: int) -> list[str]:
        """The next so many that are answered."""
        before = len(self.answered)
        async with asyncio.timeout(120.0):
            while len(self.answered) < before + count:  # noqa: ASYNC110 - whoever counts is told of nothing
                await asyncio.sleep(0.05)
        return self.answered[before:]


def by_name(baton: BatonServer) -> Mapping[str, dict[str, Any]]:
    return {worker["worker"]: worker for worker in baton.get("/status")["workers"] if worker["state"] == "ready"}


def relabel(baton: BatonServer, worker: str, role: str) -> None:
    """As a user does it."""
    env = {**baton.process.env, "RAY_AUTH_MODE": "token"}
    done = subprocess.run([*BATON, "relabel", worker, role], env=env, capture_output=True, text=True, timeout=120.0, check=False)
    assert done.returncode == 0, done.stderr


async def test_two_prefill_workers_and_one_become_one_and_two(baton: BatonServer, theirs: openai.OpenAI) -> None:
    """All answers are the reference's, before, meanwhile and after; the worker is the same process, and decodes what it is handed."""
    expected = [token_ids(theirs.completions.create(**asked(prompt)))[0] for prompt in PROMPTS]
    before = by_name(baton)
    worker = min(name for name, known in before.items() if known["role"] == "prefill")
    enough = asyncio.Event()
    async with async_client_of(baton.url) as client:
        load = Load(client, expected)
        tasks = [asyncio.create_task(load.run(enough)) for _ in range(AT_ONCE)]
        try:
            await load.more(AT_ONCE)
            await asyncio.to_thread(relabel, baton, worker, "decode")
            await load.more(2 * AT_ONCE)  # those that had begun before, and some
            later = await load.more(len(PROMPTS))
        finally:
            enough.set()
            await asyncio.gather(*tasks)
    timelines = [baton.timelines(request)[0] for request in load.answered]
    assert {(timeline["outcome"], timeline["losses"]) for timeline in timelines} == {("finished", 0)}
    after = [timeline for request, timeline in zip(load.answered, timelines, strict=True) if request in later]
    assert worker not in {timeline["prefill_worker"] for timeline in after}
    taken_over = [timeline for timeline in after if timeline["decode_worker"] == worker]
    assert taken_over
    assert all(timeline["was_transferred"] is not False for timeline in taken_over)
    known = by_name(baton)
    assert sorted(one["role"] for one in known.values()) == ["decode", "decode", "prefill"]
    assert {name: (one["pid"], one["epoch"]) for name, one in known.items()} == {n: (one["pid"], one["epoch"]) for n, one in before.items()}
