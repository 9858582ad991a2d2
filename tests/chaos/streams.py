"""Streams as their clients see them: which tokens came, when, and how it ended."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.cluster_process import MODEL

_LONGEST_S = 180.0
"""A stream that says nothing for so long has failed."""


@dataclass(frozen=True)
class Ask:
    """One request: a prompt of token ids, and the output an undisturbed engine makes of it."""

    name: str
    """Travels as ``x-request-id``, so that its timeline is known by it. No name may begin with another."""
    prompt: Sequence[int]
    expected: Sequence[int]
    how: Mapping[str, Any] = field(default_factory=dict)
    """Sampling parameters; greedy without."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """The completion request."""
        plain = {"model": MODEL, "prompt": list(self.prompt), "max_tokens": len(self.expected), "temperature": 0.0, "stream": True}
        return {**plain, "ignore_eos": True, "return_token_ids": True, **self.how}


@dataclass
class Stream:
    """What a client got of one request so far. Times are this process's monotonic clock."""

    ask: Ask
    began_s: float = 0.0
    ended_s: float | None = None
    router: str = ""
    """Who served it, as its answer's header says; an answer that has not begun has none."""
    tokens: list[int] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    """When each token came."""
    finish: str | None = None
    error: str | None = None

    @property
    def completed(self) -> bool:
        """Whether it came to its end, with as many tokens as it should have."""
        return self.error is None and self.finish is not None and len(self.tokens) == len(self.ask.expected)

    @property
    def fault(self) -> str | None:
        """What the client would complain about: an error, an end without a reason, too few tokens."""
        if self.error is not None or self.completed:
            return self.error
        return f"ended ({self.finish}) after {len(self.tokens)} of {len(self.ask.expected)} tokens"

    @property
    def wrong_tokens(self) -> int:
        """Tokens that are not the undisturbed run's in the same place; all beyond its end are."""
        beyond = max(0, len(self.tokens) - len(self.ask.expected))
        return beyond + sum(ours != theirs for ours, theirs in zip(self.tokens, self.ask.expected, strict=False))

    def longest_gap_s(self, since_s: float) -> float:
        """The longest silence between two tokens, what lies before ``since_s`` not counted."""
        later = [max(arrival, since_s) for arrival in self.arrivals]
        return max((b - a for a, b in itertools.pairwise(later)), default=0.0)

    def first_token_after_s(self, since_s: float) -> float:
        """How long after ``since_s``, or after its own begin if that was later, the first token came; 0 if it was there."""
        return max(0.0, self.arrivals[0] - max(since_s, self.began_s)) if self.arrivals else 0.0


class Crowd:
    """Any number of clients, each with a connection of its own."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(base_url=f"{url}/v1", timeout=_LONGEST_S, limits=limits)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def open(self, asks: Iterable[Ask]) -> list[Stream]:
        """Begins to stream all of them; returns at once."""
        streams = [Stream(ask) for ask in asks]
        for stream in streams:
            self._tasks[stream.ask.name] = asyncio.create_task(self._read(stream))
        return streams

    async def ended(self, streams: Sequence[Stream], limit_s: float) -> None:
        """Returns when all have ended; what is still under way after ``limit_s`` is cut, and has an error then."""
        tasks = [self._tasks[stream.ask.name] for stream in streams]
        if tasks:
            await asyncio.wait(tasks, timeout=limit_s)
        for stream in streams:
            if stream.ended_s is None:
                stream.error = f"still under way after {limit_s:g} s"
        await self.leave(streams)

    async def leave(self, streams: Sequence[Stream]) -> None:
        """The clients of these streams go away, as a closed connection."""
        tasks = [self._tasks.pop(stream.ask.name) for stream in streams]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Everybody leaves."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._client.aclose()

    async def _read(self, stream: Stream) -> None:
        stream.began_s = time.monotonic()
        headers = {"x-request-id": stream.ask.name, **stream.ask.headers}
        try:
            async with self._client.stream("POST", "/completions", json=stream.ask.body, headers=headers) as answer:
                stream.router = answer.headers.get("x-baton-router", "")
                if answer.status_code != httpx.codes.OK:
                    stream.error = f"HTTP {answer.status_code}: {(await answer.aread()).decode(errors='replace')[:300]}"
                    return
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        _take(stream, json.loads(line.removeprefix("data: ")))
        except httpx.HTTPError as error:
            stream.error = f"{type(error).__name__}: {error}"
        finally:
            stream.ended_s = time.monotonic()


def _take(stream: Stream, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        stream.error = str(chunk["error"])[:300]
        return
    now = time.monotonic()
    for choice in chunk["choices"]:
        tokens = choice.get("token_ids") or []
        stream.tokens += tokens
        stream.arrivals += [now] * len(tokens)
        stream.finish = choice["finish_reason"] or stream.finish
