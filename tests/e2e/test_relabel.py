"""Workers with real engines come, change pools and go under load: nobody gets an error, or another token."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import Mapping
from typing import Any

import openai
import pytest

from tests.e2e.answers import async_client_of, prompt_of, token_ids
from tests.support.baton_process import MODEL, START_LIMIT_S, BatonServer
from tests.support.cluster_process import BATON
from tests.support.controller_calls import calling

pytestmark = pytest.mark.e2e

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
    done = subprocess.run([*BATON, "relabel", worker, role], env=env_of(baton), capture_output=True, text=True, timeout=120.0, check=False)
    assert done.returncode == 0, done.stderr


def env_of(baton: BatonServer) -> dict[str, str]:
    return {**baton.process.env, "RAY_AUTH_MODE": "token"}


def roles(baton: BatonServer) -> list[str]:
    return sorted(known["role"] for known in by_name(baton).values())


async def became(baton: BatonServer, wanted: list[str]) -> None:
    """Until the ready workers have these roles."""
    async with asyncio.timeout(START_LIMIT_S):
        while await asyncio.to_thread(roles, baton) != wanted:  # noqa: ASYNC110 - a server is asked
            await asyncio.sleep(0.2)


async def test_a_worker_comes_changes_pools_twice_and_goes(baton: BatonServer, theirs: openai.OpenAI) -> None:
    """One and one worker become one and two, as an autoscaler has it, then two and one, and back. All answers are the reference's all the
    while; who changes pools is the same process, and decodes what it is handed."""
    expected = [token_ids(theirs.completions.create(**asked(prompt)))[0] for prompt in PROMPTS]
    before = by_name(baton)
    enough = asyncio.Event()
    async with async_client_of(baton.url) as client:
        load = Load(client, expected)
        tasks = [asyncio.create_task(load.run(enough)) for _ in range(AT_ONCE)]
        try:
            with calling(env_of(baton)) as call:
                await load.more(AT_ONCE)
                assert await asyncio.to_thread(call, "add", "decode", 1) is None
                await became(baton, ["decode", "decode", "prefill"])
                [(worker, came)] = [(name, known) for name, known in by_name(baton).items() if name not in before]
                with_three = await load.more(len(PROMPTS))
                await asyncio.to_thread(relabel, baton, worker, "prefill")
                await load.more(2 * AT_ONCE)  # those that had begun before, and some
                as_prefill = await load.more(len(PROMPTS))
                changed = by_name(baton)[worker]
                await asyncio.to_thread(relabel, baton, worker, "decode")
                await load.more(2 * AT_ONCE)
                assert await asyncio.to_thread(call, "drain", worker, "decode") is None
                await became(baton, ["decode", "prefill"])
                await load.more(AT_ONCE)
        finally:
            enough.set()
            await asyncio.gather(*tasks)
    timelines = {request: baton.timelines(request)[0] for request in load.answered}
    assert {(timeline["outcome"], timeline["losses"]) for timeline in timelines.values()} == {("finished", 0)}
    taken_over = [timelines[request] for request in with_three if timelines[request]["decode_worker"] == worker]
    assert taken_over
    assert all(timeline["was_transferred"] is not False for timeline in taken_over)
    assert worker in {timelines[request]["prefill_worker"] for request in as_prefill}
    assert worker not in {timelines[request]["decode_worker"] for request in as_prefill}
    assert (changed["role"], changed["pid"], changed["epoch"]) == ("prefill", came["pid"], came["epoch"])
    assert by_name(baton).keys() == before.keys()
