"""What routers know of workers' caches, over real sockets: events of simulated engines at one end, cached tokens at the other.

The routers here are bare: a socket for each worker, and the prefixes that are fed from it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from cluster.channel import ChannelKeys
from cluster.messages import AddLeg, Answer, Call, FromWorker, Hello, LegKind, StepOutputs
from core.block_keys import seed_of
from core.ids import LegId
from engine.vllm_codec import OutputsCodec, RequestCodec
from router.prefix.prefixes import Prefixes
from tests.contract.engine_contract import ask, prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import MiniWorker
from tests.support.one_worker import EPOCH, BareRouter, Stage, one_worker

BLOCK = 16
names = itertools.count()


class Follower(BareRouter):
    """Follows one worker's cache."""

    def __init__(self, worker: MiniWorker, keys: ChannelKeys, name: str) -> None:
        super().__init__(worker, keys, name)
        self.prefixes = Prefixes()
        self.ended: set[str] = set()
        self.answers = 0
        self._worker = worker
        self.prefixes.enter(worker.name, worker.facts.block_size_tokens, seed_of(keys.secret))
        self._end.send(Hello())

    def take(self, message: FromWorker, frames: Sequence[Any]) -> None:
        if isinstance(message, StepOutputs):
            self.ended |= {output.request_id for output in OutputsCodec().decode(frames) if output.finish_reason is not None}
        self.answers += isinstance(message, Answer)
        if want := self.prefixes.heard(self._worker.name, message, time.monotonic()):
            self._end.send(want)

    async def run(self, prompt: list[int], max_tokens: int = 1, salt: str | None = None) -> None:
        """One whole request, to its end."""
        name = f"r{next(names)}:0"
        request = msgspec.structs.replace(ask(name, prompt, max_tokens), cache_salt=salt)
        self._end.send(AddLeg(LegId(name), EPOCH, LegKind.WHOLE, len(prompt)), RequestCodec().encode(request))
        await assert_eventually(lambda: name in self.ended, 10.0, f"{name} ended")

    async def clears_cache(self) -> None:
        answers = self.answers
        self._end.send(Call(1, "reset_prefix_cache"))
        await assert_eventually(lambda: self.answers > answers, 10.0, "the cache is cleared")

    def cached(self, prompt: list[int], salt: str | None = None) -> int:
        request = msgspec.structs.replace(ask("asked", prompt, 1), cache_salt=salt)
        return self.prefixes.cached_tokens(self.prefixes.keys(request), time.monotonic()).get(self._worker.name, 0)

    async def knows(self, prompt: list[int], tokens: int, salt: str | None = None) -> None:
        await assert_eventually(lambda: self.cached(prompt, salt) == tokens, 10.0, f"{tokens} tokens are known to be cached")


@pytest.fixture
async def stage() -> AsyncIterator[Stage[Follower]]:
    async with one_worker(Follower) as stage:
        yield stage


async def test_what_a_worker_computed_is_known(stage: Stage[Follower]) -> None:
    """The prompt's full blocks, and as much of any other prompt as begins with them."""
    worker = await stage.worker()
    router = stage.router(worker)
    prompt = prompt_of(5 * BLOCK + 3, 1)
    assert router.cached(prompt) == 0
    await router.run(prompt)
    await router.knows(prompt, 5 * BLOCK)
    await router.knows([*prompt[: 3 * BLOCK], *prompt_of(40, 9)], 3 * BLOCK)
    assert router.cached(prompt_of(5 * BLOCK, 2)) == 0


async def test_tenants_are_apart(stage: Stage[Follower]) -> None:
    """Equal prompts with another salt are others' prompts, at the engine and here."""
    router = stage.router(await stage.worker())
    prompt = prompt_of(4 * BLOCK + 1, 1)
    await router.run(prompt, salt="mine")
    await router.knows(prompt, 4 * BLOCK, salt="mine")
    assert router.cached(prompt) == router.cached(prompt, salt="yours") == 0


async def test_what_is_evicted_is_forgotten(stage: Stage[Follower]) -> None:
    """A prompt that needs the whole cache leaves nothing of the one before; equal prompts computed together are one."""
    router = stage.router(await stage.worker(num_blocks=8, max_model_len=128))
    first, second = prompt_of(3 * BLOCK + 1, 1), prompt_of(7 * BLOCK + 1, 2)
    await asyncio.gather(router.run(first), router.run(first))
    await router.knows(first, 3 * BLOCK)
    await router.run(second)
    await router.knows(second, 7 * BLOCK)
    assert router.cached(first) == 0


async def test_a_cleared_cache_is_known_to_be_empty(stage: Stage[Follower]) -> None:
    """Also where it was cleared by another router."""
    worker = await stage.worker()
    router, other = stage.router(worker), stage.router(worker)
    prompt = prompt_of(4 * BLOCK + 1, 1)
    await router.run(prompt)
    await router.knows(prompt, 4 * BLOCK)
    await other.knows(prompt, 4 * BLOCK)
    await assert_eventually(worker.is_free, 10.0, "the engine is idle")
    await other.clears_cache()
    await router.knows(prompt, 0)
    await other.knows(prompt, 0)


async def test_a_router_that_starts_later_is_told_all(stage: Stage[Follower]) -> None:
    """As one that was restarted: it begins with nothing, and has what the first one has, then and from then on."""
    worker = await stage.worker()
    router = stage.router(worker)
    prompts = [prompt_of(4 * BLOCK + 1, number) for number in range(1, 9)]
    for prompt in prompts:
        await router.run(prompt)
    late = stage.router(worker)
    for prompt in prompts:
        await late.knows(prompt, 4 * BLOCK)
    ours, theirs = router.prefixes.index, late.prefixes.index
    await assert_eventually(lambda: ours.held_by(worker.name) == theirs.held_by(worker.name), 10.0, "both know the same")
    last = prompt_of(4 * BLOCK + 1, 20)
    await router.run(last)
    await late.knows(last, 4 * BLOCK)


async def test_without_events_nothing_is_known(stage: Stage[Follower]) -> None:
    """And nothing is waited for."""
    worker = await stage.worker(kv_events=False)
    router = stage.router(worker)
    prompt = prompt_of(4 * BLOCK + 1, 1)
    await router.run(prompt)
    await assert_eventually(lambda: router.prefixes.is_current(worker.name), 10.0, "the worker's answer came")
    assert router.cached(prompt) == 0
