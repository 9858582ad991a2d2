"""Clients that come at a steady rate, whatever becomes of those before them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import httpx

from tests.support.cluster_process import MODEL


class Clients:
    """``statuses`` are those of all answers so far; one that has fewer tokens than were asked for is counted as ``short``."""

    def __init__(self, url: str) -> None:
        self.statuses: Counter[int | str] = Counter()
        self._url = url
        self._asked = 0

    @contextlib.asynccontextmanager
    async def coming(self, per_s: float, prompt_tokens: int, max_tokens: int, *, patient: bool = True) -> AsyncIterator[None]:
        """So many per second until the end of the block, which waits for their answers; those that are not ``patient`` leave then."""
        asked: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(timeout=120.0, limits=httpx.Limits(max_connections=None)) as client:

            async def come() -> None:
                while True:
                    asked.add(asyncio.create_task(self._ask(client, prompt_tokens, max_tokens)))
                    await asyncio.sleep(1.0 / per_s)

            source = asyncio.create_task(come())
            try:
                yield
            finally:
                source.cancel()
                if not patient:
                    for task in asked:
                        task.cancel()
                await asyncio.gather(source, *asked, return_exceptions=True)

    async def _ask(self, client: httpx.AsyncClient, prompt_tokens: int, max_tokens: int) -> None:
        self._asked += 1
        prompt = [10 + self._asked % 4000, *[7] * (prompt_tokens - 1)]  # another beginning each time: nothing of it is cached
        body = {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True}
        try:
            answer = await client.post(f"{self._url}/v1/completions", json=body)
            self.statuses["short" if answer.is_success and _tokens(answer) != max_tokens else answer.status_code] += 1
        except httpx.HTTPError as error:
            self.statuses[type(error).__name__] += 1


def _tokens(answer: httpx.Response) -> int:
    """That the client has got."""
    found: int = answer.json()["usage"]["completion_tokens"]
    return found
