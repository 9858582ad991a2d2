"""The shorter table on real vLLM engines: every token has to be the one a plain, undisturbed vLLM engine gives."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx

from tests.chaos.report import Row
from tests.chaos.scenes import How, Scene, Victim, name_of, play
from tests.chaos.stage import Outcome, Stage, until
from tests.chaos.steps import Step, named
from tests.chaos.streams import Ask, Stream
from tests.e2e.answers import prompt_of
from tests.support.cluster_process import MODEL

STREAMS = 8
OUTPUT_TOKENS = 300
_PROMPT_TOKENS, _LONG_PROMPT_TOKENS = 400, 1900
_STREAMS_LIMIT_S = 180.0
_ROLLING_LIMIT_S = 600.0

_LEGS = [f"leg {number}" for number in range(1, 13)]
_SCHEMA = {
    "type": "object",
    "properties": {leg: {"enum": ["red", "green", "blue"]} for leg in _LEGS},
    "required": _LEGS,
    "additionalProperties": False,
}
_FORM = {"type": "json_schema", "json_schema": {"name": "relay", "schema": _SCHEMA}}
_HOW: Sequence[Mapping[str, Any]] = (
    {},
    {"temperature": 1.0, "seed": 7},
    {"presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.1},
    {"response_format": _FORM, "ignore_eos": False, "temperature": 0.8, "seed": 11},
)
"""Greedy, by seed, with memory of what was said, and by a grammar, in turn: all that looks back at the output is looked at."""

SCENES = (
    Scene(Victim.DECODE, How.KILL, Step.DECODING),
    Scene(Victim.PREFILL, How.KILL, Step.PREFILLING),
    Scene(Victim.DECODE, How.KILL_ENGINE, Step.DECODING),
    Scene(Victim.PREFILL, How.KILL_ENGINE, Step.PREFILLING),
)


def expected(url: str, count: int = STREAMS) -> dict[int, list[Ask]]:
    """Requests and what the plain vLLM server there answers to each, by the length of their prompts."""
    return {length: asyncio.run(_ask_all(url, length, count)) for length in (_PROMPT_TOKENS, _LONG_PROMPT_TOKENS)}


async def _ask_all(url: str, prompt_tokens: int, count: int) -> list[Ask]:
    async with httpx.AsyncClient(base_url=f"{url}/v1", timeout=300.0) as client:
        asking = (_ask(client, prompt_of(prompt_tokens, 9000 + number), _HOW[number % len(_HOW)]) for number in range(count))
        return await asyncio.gather(*asking)


async def _ask(client: httpx.AsyncClient, prompt: list[int], how: Mapping[str, Any]) -> Ask:
    body = {"model": MODEL, "prompt": prompt, "temperature": 0.0, "ignore_eos": True, "return_token_ids": True, **how}
    answer = await client.post("/completions", json={**body, "max_tokens": OUTPUT_TOKENS})
    assert answer.status_code == httpx.codes.OK, answer.text
    return Ask("", prompt, answer.json()["choices"][0]["token_ids"], {**how, "max_tokens": OUTPUT_TOKENS})


def _renamed(scene: str, asks: Sequence[Ask]) -> list[Ask]:
    return [replace(ask, name=f"{scene}-{number:03d}") for number, ask in enumerate(asks)]


async def undisturbed(stage: Stage, asks: Mapping[int, list[Ask]]) -> tuple[Row, float]:
    """Its row, and how long prefilling everybody's context again may take: as long as it took the first time."""
    await stage.ready()
    streams = stage.crowd.open(_renamed("undisturbed", asks[_LONG_PROMPT_TOKENS]))
    await stage.crowd.ended(streams, _STREAMS_LIMIT_S)
    ended_s = time.monotonic()
    began_s = min(stream.began_s for stream in streams)
    row = Outcome(streams, began_s, len(streams)).row("none", "all", await stage.zero(ended_s))
    return row, max(stream.first_token_after_s(began_s) for stream in streams)


async def play_real(stage: Stage, scene: Scene, number: int, asks: Mapping[int, list[Ask]]) -> Row:
    """One scene. Long prompts where prefilling is what is hit."""
    length = _LONG_PROMPT_TOKENS if scene.step is Step.PREFILLING else _PROMPT_TOKENS
    return await play(stage, scene, number, _renamed(name_of(number), asks[length]))


async def clients_leave_between_the_legs(stage: Stage, asks: Mapping[int, list[Ask]]) -> Row:
    """Half of the clients go at their first token, while decode workers pull for them. The others must not notice."""
    await stage.ready()
    staying = stage.crowd.open(_renamed("staying", asks[_PROMPT_TOKENS]))
    leaving = stage.crowd.open(_renamed("leaving", asks[_LONG_PROMPT_TOKENS]))
    struck_s = time.monotonic()
    await asyncio.gather(*(_leave_at_first_token(stage, stream) for stream in leaving))
    await stage.crowd.ended(staying, _STREAMS_LIMIT_S)
    ended_s = time.monotonic()
    gone = [t for t in named(await stage.cast.timelines(), "leaving") if t["outcome"] == "cancelled" and t["decoding_s"] is None]
    row = Outcome(staying, struck_s, len(gone)).row("clients leave", Step.BETWEEN, await stage.zero(ended_s))
    return replace(row, wrong_tokens=row.wrong_tokens + sum(stream.wrong_tokens for stream in leaving))


async def _leave_at_first_token(stage: Stage, stream: Stream) -> None:
    async def has_token() -> bool:
        return bool(stream.tokens) or stream.ended_s is not None

    await until(has_token, 60.0, f"{stream.ask.name} has a token", every_s=0.002)
    await stage.crowd.leave([stream])


async def rolling_restart(stage: Stage, asks: Mapping[int, list[Ask]]) -> Row:
    """``baton drain --all`` under load: every worker is replaced, one after the other, and nobody notices."""
    await stage.ready()
    before = set(await stage.cast.workers())
    draining = asyncio.create_task(asyncio.to_thread(stage.cluster.home.baton, "drain", "--all", limit_s=_ROLLING_LIMIT_S))
    struck_s = time.monotonic()
    numbers = itertools.count()

    async def client() -> list[Stream]:
        streams: list[Stream] = []
        while not draining.done():
            streams += stage.crowd.open([next(source)])
            await stage.crowd.ended(streams[-1:], _STREAMS_LIMIT_S)
        return streams

    source = _endless(asks[_PROMPT_TOKENS], numbers)
    streams = [stream for served in await asyncio.gather(*(client() for _ in range(STREAMS // 2))) for stream in served]
    ended_s = time.monotonic()
    done = draining.result()
    outcome = Outcome(streams, struck_s, len(streams))
    left = before & set(await stage.cast.workers())
    if done.returncode or left:
        outcome.notes.append(f"drain ended with {done.returncode}, and {left or 'none'} of the old workers are left: {done.stdout[-500:]}")
        outcome.there = 0
    return outcome.row("rolling restart (baton drain --all)", "all", await stage.zero(ended_s))


def _endless(asks: Sequence[Ask], numbers: Iterator[int]) -> Iterator[Ask]:
    for ask in itertools.cycle(asks):
        yield replace(ask, name=f"rolling-{next(numbers):04d}")
