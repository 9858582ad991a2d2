"""An OpenAI-compatible endpoint under a trace: open-loop, streaming, prompts as token ids. Any server that has /v1/completions.

Engines on a small machine are slowed down, all of them alike: with ``slowdown`` 10 everything takes ten times as long, arrivals
included, and what is reported is divided by it again. What servers themselves need then weighs a tenth.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Sequence

import aiohttp

from simulation.record import Record
from simulation.traces import Trace, TraceRequest

_FIRST_ID = 16
"""Those below may be special tokens."""


def prompt_of(request: TraceRequest, number: int, block_tokens: int, vocab_size: int) -> list[int]:
    """Token ids for a prompt: those of a block are the same wherever it occurs, what no block covers is this request's own."""

    def made(seed: str, tokens: int) -> list[int]:
        return random.Random(seed).choices(range(_FIRST_ID, vocab_size), k=tokens)

    covered = request.block_hashes[: -(-request.prompt_tokens // block_tokens)]
    ids = list(itertools.chain.from_iterable(made(f"block {block}", block_tokens) for block in covered))
    return ids[: request.prompt_tokens] + made(f"request {number}", max(0, request.prompt_tokens - len(ids)))


async def drive(
    url: str, model: str, trace: Trace, *, slowdown: float, vocab_size: int, now: Callable[[], float] = time.monotonic
) -> list[Record]:
    """Sends every request at its time, whatever became of those before it, and returns when the last one has ended.

    A request that was refused or broke off has its reason in ``failure``. Times are the trace's, from when it was due: that this
    client may be late itself is part of them.
    """
    prompts = [prompt_of(request, number, trace.block_tokens, vocab_size) for number, request in enumerate(trace.requests)]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        began_s = now()

        def clock() -> float:
            return (now() - began_s) / slowdown

        async def one(request: TraceRequest, prompt: Sequence[int]) -> Record:
            record = Record(request, request.arrival_s)
            await asyncio.sleep((request.arrival_s - clock()) * slowdown)
            try:
                await _answer(session, url, model, prompt, record, clock)
            except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
                record.failure = record.failure or f"{type(error).__name__}: {error}"
            record.ended_s = clock()
            return record

        return await asyncio.gather(*map(one, trace.requests, prompts))


async def _answer(
    session: aiohttp.ClientSession, url: str, model: str, prompt: Sequence[int], record: Record, clock: Callable[[], float]
) -> None:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": record.request.output_tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    times_s: list[float] = []
    tokens = 0
    async with session.post(f"{url}/v1/completions", json=body) as response:
        if response.status != 200:
            record.failure = f"{response.status}: {(await response.text())[:200]}"
            return
        async for line in response.content:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise ValueError(chunk["error"])
            if any(choice["text"] for choice in chunk["choices"]):
                times_s.append(clock())
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
    if not times_s or tokens < len(times_s):
        raise ValueError(f"{tokens} tokens in {len(times_s)} pieces")
    # A piece is a token, but for those whose text came with a later one's: nothing tells which, so the last piece has them all.
    for time_s in times_s[:-1]:
        record.came(1, time_s)
    record.came(tokens - len(times_s) + 1, times_s[-1])
