"""What every engine does, written against ``engine.base.Engine`` alone.

A test module makes this suite its own with ``class TestX(EngineContract)`` and a fixture ``make_engine`` that starts
engines of its kind (equal models, able to pull from each other) and checks on the way out that they are empty.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest
from vllm.distributed.kv_events import BlockStored, KVEventBatch
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason

from cluster.kv_feed import KVFeed
from core.block_keys import BlockKeys, unpack
from core.errors import EngineFailedError
from core.ids import Epoch, LegId
from core.worker import EngineFacts
from engine.base import Engine, StepReport
from engine.sampling import EMITTED_KEY

LIMIT_S = 60.0
"""Nothing here takes longer, on the slowest engine."""


async def eventually(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Waits until ``condition`` holds; fails with ``what`` after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"after {limit_s} s still not: {what}"
        await asyncio.sleep(0.005)


def ask(leg: str, prompt: list[int], max_tokens: int, transfer: dict[str, Any] | None = None, **sampling: Any) -> EngineCoreRequest:
    """A greedy request for exactly ``max_tokens`` tokens, unless told otherwise."""
    extra = {"kv_transfer_params": transfer} if transfer is not None else None
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, extra_args=extra, **{"ignore_eos": True, **sampling})
    return EngineCoreRequest(
        request_id=leg,
        prompt_token_ids=prompt,
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=time.time(),
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


def behind(emitted: list[int], transfer: dict[str, Any] | None = None) -> dict[str, Any]:
    """Transfer parameters of a request that goes on behind output tokens made elsewhere."""
    return {**(transfer or {}), EMITTED_KEY: emitted}


def prompt_of(tokens: int, seed: int) -> list[int]:
    """Token ids that any vocabulary of 300 has; prompts of different seeds differ from the first token on."""
    return [20 + seed, *((seed * 31 + index * 7) % 200 + 20 for index in range(1, tokens))]


class Running:
    """A started engine and everything it has said."""

    def __init__(self, engine: Engine, facts: EngineFacts) -> None:
        self.engine = engine
        self.facts = facts
        self.outputs: dict[str, list[EngineCoreOutput]] = {}
        self.reports: list[StepReport] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            outputs, report = await self.engine.step()
            self.reports.append(report)
            for output in outputs.outputs:
                self.outputs.setdefault(output.request_id, []).append(output)

    async def heard(self) -> None:
        """Waits for one more step."""
        seen = len(self.reports)
        await eventually(lambda: len(self.reports) > seen, "another step")

    def finished(self, leg: str) -> bool:
        assert not self.reading.done(), f"the engine stopped: {self.reading}"
        return leg in self.outputs and self.outputs[leg][-1].finished

    def tokens(self, leg: str) -> list[int]:
        return [token for output in self.outputs.get(leg, ()) for token in output.new_token_ids]

    def released(self) -> list[str]:
        return [leg for report in self.reports for leg in report.released]

    def expired(self) -> list[str]:
        return [leg for report in self.reports for leg in report.expired]

    async def run(self, request: EngineCoreRequest) -> list[int]:
        """Adds a request and waits for its end; its tokens."""
        await self.engine.add(request)
        await eventually(lambda: self.finished(request.request_id), f"{request.request_id} finished")
        return self.tokens(request.request_id)

    async def prefill(self, leg: str, prompt: list[int], emitted: Sequence[int] = (), **sampling: Any) -> tuple[int, dict[str, Any]]:
        """A prefill leg, perhaps behind emitted tokens: its token, and the handle's parameters."""
        keep = behind(list(emitted), {"do_remote_decode": True, "do_remote_prefill": False})
        [token] = await self.run(ask(leg, prompt, len(emitted) + 1, keep, **sampling))
        handle = self.outputs[leg][-1].kv_transfer_params
        assert handle is not None
        return token, handle

    def empty(self) -> bool:
        stats = self.engine.stats
        return (stats.running, stats.waiting, stats.free_blocks) == (0, 0, self.facts.num_blocks)


async def check_empty(engine: Running) -> None:
    """Nothing runs, nothing waits, no block is held: what a fixture checks on the way out."""
    await eventually(engine.empty, f"no request and no block left: {engine.engine.stats}")


MakeEngine = Callable[[], Awaitable[Running]]


def _metrics(running: Running) -> dict[str, float]:
    """What the engine tells Prometheus, of those that have no labels but the engine's own."""
    samples = [sample for family in running.engine.metrics() for sample in family.samples]
    assert all(sample.name.startswith("vllm:") for sample in samples)
    return {sample.name: sample.value for sample in samples if sample.labels.keys() == {"model_name", "engine"}}


class EngineContract:
    """The suite. Engines may differ in block size, so prompts are counted in blocks."""

    async def test_a_request_ends_after_max_tokens(self, make_engine: MakeEngine) -> None:
        """One output per token; the first tells where the prompt came from, the last why it is the last."""
        engine = await make_engine()
        prompt = prompt_of(engine.facts.block_size_tokens + 3, 1)
        assert len(await engine.run(ask("a:0", prompt, 4))) == 4
        outputs = engine.outputs["a:0"]
        stats = outputs[0].prefill_stats
        assert stats is not None
        assert (stats.num_prompt_tokens, stats.num_computed_tokens, stats.num_cached_tokens) == (len(prompt), len(prompt), 0)
        assert [output.finish_reason for output in outputs] == [None, None, None, FinishReason.LENGTH]
        assert outputs[-1].kv_transfer_params is None
        assert engine.engine.stats.computed_prompt_tokens == len(prompt)

    async def test_a_stop_token_ends_a_request(self, make_engine: MakeEngine) -> None:
        """It is part of the output and named as the reason."""
        engine = await make_engine()
        prompt = prompt_of(9, 1)
        tokens = await engine.run(ask("a:0", prompt, 4))
        stopped = await engine.run(ask("b:0", prompt, 4, stop_token_ids=[tokens[2]]))
        assert stopped == tokens[: tokens.index(tokens[2]) + 1]
        last = engine.outputs["b:0"][-1]
        assert (last.finish_reason, last.stop_reason) == (FinishReason.STOP, tokens[2])

    async def test_requests_together_give_the_tokens_they_give_alone(self, make_engine: MakeEngine) -> None:
        """Batching changes no token."""
        engine = await make_engine()
        size = engine.facts.block_size_tokens
        alone = [await engine.run(ask(f"alone-{seed}:0", prompt_of(size + seed, seed), 6)) for seed in range(1, 5)]
        for seed in range(1, 5):
            await engine.engine.add(ask(f"together-{seed}:0", prompt_of(size + seed, seed), 6))
        await eventually(lambda: all(engine.finished(f"together-{seed}:0") for seed in range(1, 5)), "all finished")
        assert [engine.tokens(f"together-{seed}:0") for seed in range(1, 5)] == alone

    async def test_a_repeated_prompt_is_a_prefix_hit(self, make_engine: MakeEngine) -> None:
        """Its full blocks are found again, but the last token is always computed."""
        engine = await make_engine()
        size = engine.facts.block_size_tokens
        prompt = prompt_of(2 * size, 2)
        first = await engine.run(ask("a:0", prompt, 3))
        assert await engine.run(ask("b:0", prompt, 3)) == first
        stats = engine.outputs["b:0"][0].prefill_stats
        assert stats is not None
        assert (stats.num_local_cached_tokens, stats.num_computed_tokens, stats.num_external_cached_tokens) == (size, size, 0)

    async def test_logprobs_come_with_every_token(self, make_engine: MakeEngine) -> None:
        """The sampled token first, then as many as were asked for."""
        engine = await make_engine()
        tokens = await engine.run(ask("a:0", prompt_of(9, 3), 3, logprobs=2))
        for token, output in zip(tokens, engine.outputs["a:0"], strict=True):
            assert output.new_logprobs is not None
            assert output.new_logprobs.logprob_token_ids.shape == output.new_logprobs.logprobs.shape == (1, 3)
            assert output.new_logprobs.logprob_token_ids[0, 0] == token

    async def test_abort_before_the_first_token(self, make_engine: MakeEngine) -> None:
        """Nothing follows, nothing is held; ids that nobody knows (any more) are ignored."""
        engine = await make_engine()
        await engine.engine.add(ask("a:0", prompt_of(9, 4), 50))
        await engine.engine.abort([LegId("a:0"), LegId("unknown:0")])
        said = len(engine.outputs.get("a:0", ()))
        await check_empty(engine)
        await engine.engine.abort([LegId("a:0")])
        await engine.run(ask("b:0", prompt_of(9, 5), 2))
        assert len(engine.outputs.get("a:0", ())) == said

    async def test_abort_while_running(self, make_engine: MakeEngine) -> None:
        """What was on its way may still come; nothing follows the first word on what was asked later. Other requests go on."""
        engine = await make_engine()
        await engine.engine.add(ask("a:0", prompt_of(9, 6), 200))
        await engine.engine.add(ask("b:0", prompt_of(9, 7), 20))
        await eventually(lambda: len(engine.tokens("a:0")) > 2, "a few tokens")
        await engine.engine.abort([LegId("a:0")])
        await engine.engine.add(ask("c:0", prompt_of(9, 8), 20))
        await eventually(lambda: bool(engine.tokens("c:0")), "what was asked later is answered")
        said = engine.tokens("a:0")
        await eventually(lambda: engine.finished("b:0") and engine.finished("c:0"), "the others finished")
        assert engine.tokens("a:0") == said
        assert len(engine.tokens("b:0")) == 20

    @pytest.mark.parametrize("over", [-1, 0, 1])
    async def test_decode_continues_what_prefill_began(self, make_engine: MakeEngine, over: int) -> None:
        """Prefill's token and decode's behind it are one engine's tokens; decode computed one block at most."""
        prefill, decode = await make_engine(), await make_engine()
        size = prefill.facts.block_size_tokens
        prompt = prompt_of(2 * size + over, 8)
        token, handle = await prefill.prefill("a:0", prompt)
        assert handle["remote_num_tokens"] == len(prompt)
        rest = await decode.run(ask("a:1", prompt, 6, behind([token], handle)))
        await eventually(lambda: prefill.released() == ["a:0"], "the kept blocks are released")
        assert prefill.expired() == []
        stats = decode.outputs["a:1"][0].prefill_stats
        assert stats is not None
        assert stats.num_external_cached_tokens >= len(prompt) // size * size
        assert decode.engine.stats.computed_prompt_tokens <= size
        transfers = [transfer for report in decode.reports for transfer in report.transfers]
        assert [transfer.leg for transfer in transfers] == ["a:1"]
        assert transfers[0].transfer_bytes > 0
        assert decode.engine.stats.received_bytes == transfers[0].transfer_bytes
        alone = await make_engine()
        assert [token, *rest] == await alone.run(ask("b:0", prompt, 6))

    @pytest.mark.parametrize("over", [-2, -1, 0, 1])
    async def test_a_lost_answer_goes_on_behind_what_is_out(self, make_engine: MakeEngine, over: int) -> None:
        """Emitted tokens are output: they count for the limits, are not told again, and are computed like the prompt."""
        engine, other = await make_engine(), await make_engine()
        size = engine.facts.block_size_tokens
        prompt, out = prompt_of(size - 5, 14), 5 + over
        whole = await engine.run(ask("a:0", prompt, 12))
        assert await other.run(ask("a:1", prompt, 12, behind(whole[:out]))) == whole[out:]
        outputs = other.outputs["a:1"]
        assert [output.finish_reason for output in outputs] == [None] * (11 - out) + [FinishReason.LENGTH]
        stats = outputs[0].prefill_stats
        assert stats is not None
        assert (stats.num_prompt_tokens, stats.num_computed_tokens) == (size + over, size + over)
        assert all(output.prefill_stats is None for output in outputs[1:])
        again = await other.run(ask("a:2", prompt, 12, behind(whole[:out])))
        assert again == whole[out:]
        found = other.outputs["a:2"][0].prefill_stats
        assert found is not None
        assert found.num_local_cached_tokens == (size if over > 0 else 0), "also the block that ends in the output is found"

    @pytest.mark.parametrize("over", [-1, 0, 1, 2])
    async def test_a_lost_answer_is_split_again(self, make_engine: MakeEngine, over: int) -> None:
        """Prefill computes prompt and emitted tokens and makes one more; decode pulls the KV of all of them."""
        prefill, decode = await make_engine(), await make_engine()
        size = prefill.facts.block_size_tokens
        prompt, out = prompt_of(2 * size - 6, 15), 6 + over
        alone = ask("a:0", prompt, 14)
        alone.cache_salt = "alone"  # so that none of its blocks is found later
        whole = await prefill.run(alone)
        token, handle = await prefill.prefill("a:1", prompt, whole[:out])
        assert token == whole[out]
        assert handle["remote_num_tokens"] == 2 * size + over
        rest = await decode.run(ask("a:2", prompt, 14, behind(whole[: out + 1], handle)))
        assert rest == whole[out + 1 :]
        stats = decode.outputs["a:2"][0].prefill_stats
        assert stats is not None
        assert stats.num_external_cached_tokens >= (2 * size + over) // size * size
        assert decode.engine.stats.computed_prompt_tokens <= size
        await eventually(lambda: prefill.released() == ["a:1"], "the kept blocks are released")

    async def test_a_first_handle_serves_a_second_worker(self, make_engine: MakeEngine) -> None:
        """What the handle covers is pulled; the tokens that came since are computed."""
        prefill, decode = await make_engine(), await make_engine()
        size = prefill.facts.block_size_tokens
        prompt = prompt_of(2 * size - 3, 16)
        whole = await prefill.run(ask("a:0", prompt, 12))
        token, handle = await prefill.prefill("a:1", prompt)
        assert token == whole[0]
        assert await decode.run(ask("a:2", prompt, 12, behind(whole[:7], handle))) == whole[7:]
        await eventually(lambda: prefill.released() == ["a:1"], "the kept blocks are released")
        assert decode.engine.stats.received_bytes > 0

    async def test_limits_count_what_is_out(self, make_engine: MakeEngine) -> None:
        """A stop token is not made before the whole output has ``min_tokens``, and ends it behind them."""
        engine, other = await make_engine(), await make_engine()
        prompt = prompt_of(9, 17)
        plain = await engine.run(ask("a:0", prompt, 12))
        stop: dict[str, Any] = {"stop_token_ids": [plain[4], plain[6]], "min_tokens": 6}
        whole = await engine.run(ask("b:0", prompt, 12, **stop))
        assert len(whole) > 5
        for out in range(1, len(whole)):
            assert await other.run(ask(f"b:{out}", prompt, 12, behind(whole[:out]), **stop)) == whole[out:]
            last, wanted = other.outputs[f"b:{out}"][-1], engine.outputs["b:0"][-1]
            assert (last.finish_reason, last.stop_reason) == (wanted.finish_reason, wanted.stop_reason)

    async def test_release_frees_a_kept_prefill(self, make_engine: MakeEngine) -> None:
        """At once and once; ids that nobody keeps are ignored."""
        engine = await make_engine()
        await engine.prefill("a:0", prompt_of(engine.facts.block_size_tokens + 1, 9))
        await eventually(lambda: engine.engine.stats.running == 0, "the leg ended")
        assert engine.engine.stats.free_blocks < engine.facts.num_blocks
        await engine.engine.release([LegId("a:0"), LegId("unknown:0")])
        await eventually(lambda: engine.released() == ["a:0"], "released")
        await check_empty(engine)
        await engine.engine.release([LegId("a:0")])
        assert engine.expired() == []

    async def test_a_decode_aborted_before_it_read_lets_the_keeper_free(self, make_engine: MakeEngine) -> None:
        """No kept block waits for a reader that will not come."""
        prefill, decode = await make_engine(), await make_engine()
        prompt = prompt_of(2 * prefill.facts.block_size_tokens, 10)
        token, handle = await prefill.prefill("a:0", prompt)
        await decode.engine.add(ask("a:1", prompt, 6, behind([token], handle)))
        await decode.engine.abort([LegId("a:1")])
        await check_empty(decode)
        await check_empty(prefill)
        assert prefill.expired() == []

    async def test_kv_events_have_no_holes_and_name_every_full_block(self, make_engine: MakeEngine) -> None:
        """Numbers grow by one; stored blocks cover the prompt and what decoding filled."""
        engine = await make_engine()
        size = engine.facts.block_size_tokens
        prompt = prompt_of(2 * size + size // 2, 11)
        tokens = await engine.run(ask("a:0", prompt, size))
        numbers: list[int] = []
        stored: list[int] = []
        async with asyncio.timeout(LIMIT_S):
            while len(stored) < 3 * size:
                message = await engine.engine.kv_events()
                numbers.append(message.sequence)
                for event in msgspec.msgpack.decode(message.payload, type=KVEventBatch).events:
                    assert isinstance(event, BlockStored)
                    assert event.block_size * len(event.block_hashes) == len(event.token_ids)
                    stored += event.token_ids
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert stored == (prompt + tokens)[: 3 * size]

    async def test_every_step_that_computes_is_a_sample(self, make_engine: MakeEngine) -> None:
        """Prompt and output tokens, all of them and none twice; the steps' times, end to end, are no more than what passed."""
        engine = await make_engine()
        prompt = prompt_of(engine.facts.block_size_tokens * 2, 41)
        before, began_s = len(engine.reports), time.monotonic()
        await engine.run(ask("sampled", prompt, 6))
        passed_s = time.monotonic() - began_s
        samples = [sample for report in engine.reports[before:] for sample in report.samples]
        works = [sample.work for sample in samples]
        assert sum(work.prefill_tokens for work in works) == len(prompt)
        assert sum(work.prefill_squares for work in works) == len(prompt) ** 2
        decodes = [work.context_tokens for work in works if work.batch]
        assert decodes[:5] == [len(prompt) + made for made in range(1, 6)]
        assert len(decodes) <= 6, "asynchronous scheduling may have begun one too many"
        assert all(sample.seconds > 0.0 for sample in samples)
        assert sum(sample.seconds for sample in samples) <= passed_s

    async def test_it_tells_vllms_metrics(self, make_engine: MakeEngine) -> None:
        """Under vLLM's names, whatever the engine: its queues and cache as they are, and tokens as they were counted."""
        engine = await make_engine()
        before = _metrics(engine)
        prompt = prompt_of(2 * engine.facts.block_size_tokens + 5, 11)
        for leg in ("first", "again"):
            await engine.run(ask(leg, prompt, 6))
        now = _metrics(engine)
        grown = {name: now[name] - before[name] for name in now if name.endswith("_total")}
        assert grown["vllm:generation_tokens_total"] == 12
        assert grown["vllm:prompt_tokens_total"] == grown["vllm:prefix_cache_queries_total"] == 2 * len(prompt)
        assert grown["vllm:prefix_cache_hits_total"] == 2 * engine.facts.block_size_tokens
        assert grown["vllm:num_preemptions_total"] == 0
        assert (now["vllm:num_requests_running"], now["vllm:num_requests_waiting"], now["vllm:kv_cache_usage_perc"]) == (0, 0, 0)

    async def test_kv_events_name_blocks_as_routers_do(self, make_engine: MakeEngine) -> None:
        """The keys made of a prompt, its answer and its salt are those a worker makes of the events; without the salt, others."""
        engine = await make_engine()
        size = engine.facts.block_size_tokens
        keys = BlockKeys(b"seed", size)
        feed = KVFeed(Epoch(1), keys, engine.facts.num_blocks)
        prompt = prompt_of(2 * size + size // 2, 14)
        salted = msgspec.structs.replace(ask("b:0", prompt, 1), cache_salt="tenant")
        tokens = prompt + await engine.run(ask("a:0", prompt, size))
        await engine.run(salted)
        expected = {*keys.prompt(tokens[: 3 * size]), *keys.prompt(prompt, "tenant")}
        told: set[int] = set()
        async with asyncio.timeout(LIMIT_S):
            while len(told) < len(expected):
                feed.heard(await engine.engine.kv_events())
                told |= {key for changes in feed.take() for key in unpack(changes.stored)}
        assert told == expected
        assert len(expected) == 5

    async def test_cancelling_step_loses_nothing(self, make_engine: MakeEngine) -> None:
        """A reader that gives up and comes back has every token."""
        engine = await make_engine()
        expected = await engine.run(ask("a:0", prompt_of(9, 12), 20))
        await engine.engine.add(ask("b:0", prompt_of(9, 12), 20))
        while not engine.finished("b:0"):
            reading = engine.reading
            reading.cancel()
            await asyncio.wait([reading])
            engine.reading = asyncio.create_task(engine._read())
            await engine.heard()
        assert engine.tokens("b:0") == expected

    async def test_who_has_slept_goes_on_as_before(self, make_engine: MakeEngine) -> None:
        """It says that it sleeps, and that it has woken; then it answers as before, with nothing cached."""
        engine = await make_engine()
        prompt = prompt_of(2 * engine.facts.block_size_tokens, 14)
        expected = await engine.run(ask("a:0", prompt, 5))
        await check_empty(engine)
        await engine.engine.sleep()
        assert await engine.engine.utility("is_sleeping") is True
        await engine.engine.wake()
        assert await engine.engine.utility("is_sleeping") is False
        assert await engine.run(ask("b:0", prompt, 5)) == expected
        stats = engine.outputs["b:0"][0].prefill_stats
        assert stats is not None
        assert stats.num_cached_tokens == 0

    async def test_utilities(self, make_engine: MakeEngine) -> None:
        """The engine generates, is awake, forgets its cache when idle, and names a utility it does not have."""
        engine = await make_engine()
        assert "generate" in await engine.engine.utility("get_supported_tasks")
        assert await engine.engine.utility("is_sleeping") is False
        prompt = prompt_of(2 * engine.facts.block_size_tokens, 13)
        await engine.run(ask("a:0", prompt, 1))
        await check_empty(engine)
        assert await engine.engine.utility("reset_prefix_cache") is True
        await engine.run(ask("b:0", prompt, 1))
        stats = engine.outputs["b:0"][0].prefill_stats
        assert stats is not None
        assert stats.num_cached_tokens == 0
        with pytest.raises(EngineFailedError, match="make_coffee"):
            await engine.engine.utility("make_coffee")
