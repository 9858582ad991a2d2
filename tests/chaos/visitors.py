"""Mixed load: visitors who ask, read, leave and come back, each in their own way, and a record of what they got."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from tests.chaos.oracle import ask
from tests.chaos.streams import Ask, Crowd, Stream

_LIMIT_S = 90.0


@dataclass
class Record:
    """What all visitors got, together."""

    asked: Counter[str] = field(default_factory=Counter)
    """By kind of request."""
    completed: int = 0
    left: int = 0
    """Of their own will."""
    broken: int = 0
    """Their router was killed under them."""
    wrong_tokens: int = 0
    errors: list[str] = field(default_factory=list)
    longest_gap_s: float = 0.0

    def judge(self, stream: Stream, routers_killed_at_s: Sequence[float]) -> None:
        """Takes up a stream that has ended."""
        self.wrong_tokens += stream.wrong_tokens
        if stream.fault is None:
            self.completed += 1
            self.longest_gap_s = max(self.longest_gap_s, stream.longest_gap_s(0.0))
        elif any(stream.began_s <= at_s + 1.0 and (stream.ended_s or at_s) >= at_s for at_s in routers_killed_at_s) and _is_cut(stream):
            self.broken += 1
        else:
            self.errors.append(f"{time.strftime('%H:%M:%S')} {stream.ask.name} at {stream.router}: {stream.fault}")


def _is_cut(stream: Stream) -> bool:
    """Whether it looks like a connection that broke: no status, or a proxy's for nobody being there any more."""
    fault = stream.fault or ""
    return not fault.startswith("HTTP") or fault.startswith(("HTTP 502", "HTTP 503"))


class Visitors:
    """``count`` at once; each asks again when it has its answer. Every request is one of the kinds below, at random."""

    KINDS = ("short", "long", "seeded", "leaves", "two choices", "not streamed")

    def __init__(self, url: str, count: int, seed: int) -> None:
        self.record = Record()
        self.routers_killed_at_s: list[float] = []
        self._crowd = Crowd(url)
        self._plain = httpx.AsyncClient(base_url=f"{url}/v1", timeout=_LIMIT_S)
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._closing = asyncio.Event()
        self._tasks = [asyncio.create_task(self._visit()) for _ in range(count)]

    async def close(self) -> None:
        """Nobody asks again; returns when the last answer has ended. Raises what went wrong in here."""
        self._closing.set()
        await asyncio.gather(*self._tasks)
        await self._crowd.close()
        await self._plain.aclose()

    async def _visit(self) -> None:
        while not self._closing.is_set():
            kind = self._random.choice(self.KINDS)
            self.record.asked[kind] += 1
            tokens = self._random.randrange(3, 25) if kind == "short" else self._random.randrange(40, 250)
            asked = ask(f"visit{next(self._numbers):06d}", self._random.randrange(8, 900), tokens)
            if kind in ("two choices", "not streamed"):
                await self._whole(asked, 2 if kind == "two choices" else 1)
                continue
            how = {"temperature": 1.0, "seed": len(asked.prompt)} if kind == "seeded" else {}
            [stream] = self._crowd.open([Ask(asked.name, asked.prompt, asked.expected, how)])
            if kind == "leaves":
                await asyncio.sleep(self._random.uniform(0.0, 3.0))  # a client's patience, not a condition
                finished = stream.ended_s is not None
                await self._crowd.leave([stream])
                if not finished:
                    self.record.left += 1
                    self.record.wrong_tokens += stream.wrong_tokens
                    continue
            else:
                await self._crowd.ended([stream], _LIMIT_S)
            self.record.judge(stream, self.routers_killed_at_s)

    async def _whole(self, asked: Ask, choices: int) -> None:
        """An answer in one piece; judged as a stream that came all at once."""
        stream = Stream(asked, began_s=time.monotonic())
        body = {**asked.body, "stream": False, "n": choices, "temperature": 1.0}
        try:
            answer = await self._plain.post("/completions", json=body, headers={"x-request-id": asked.name})
            stream.router = answer.headers.get("x-baton-router", "")
            if answer.status_code == httpx.codes.OK:
                for choice in answer.json()["choices"]:
                    stream.tokens, stream.finish = choice["token_ids"], choice["finish_reason"]
                    self.record.wrong_tokens += stream.wrong_tokens if choice["index"] else 0
            else:
                stream.error = f"HTTP {answer.status_code}: {answer.text[:300]}"
        except httpx.HTTPError as error:
            stream.error = f"{type(error).__name__}: {error}"
        stream.ended_s = time.monotonic()
        self.record.judge(stream, self.routers_killed_at_s)
