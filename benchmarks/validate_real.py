"""Holds the simulated engine against a vLLM engine started here: fit on measured steps, then one workload for both."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest

from benchmarks.sim_replay import Arrival, Replay, Timed
from benchmarks.validate_engine import print_errors, print_model
from core.step_model import StepModel, StepWork
from core.worker import EngineFacts
from deploy.demo_model import ensure_demo_model
from engine.performance.fit import fit_steps, relative_errors
from engine.sim_config import SimulatedEngineConfig
from engine.vllm_engine import VllmEngine

_DEPTH = 1
"""vLLM schedules ahead by default, but not on CPU."""
_TOKENS = range(20, 220)
"""Ids that the demo model has and that mean nothing."""


async def validate_real(seed: int = 7) -> None:
    """Starts one engine with the demo model, measures it, and prints the errors on a workload that was not measured."""
    with tempfile.TemporaryDirectory(prefix="v-") as directory:
        environment = dict(os.environ)
        engine = VllmEngine(
            {"model": str(ensure_demo_model()), "max_model_len": 4096, "dtype": "float32"}, None, "127.0.0.1", Path(directory)
        )
        try:
            facts = await engine.start(lambda phase: None)
            await _compare(RealRun(engine, facts.max_num_batched_tokens), facts, random.Random(seed))
        finally:
            await engine.shutdown()
            os.environ.clear()
            os.environ.update(environment)


async def _compare(run: RealRun, facts: EngineFacts, chance: random.Random) -> None:
    config = SimulatedEngineConfig(
        block_size_tokens=facts.block_size_tokens,
        num_blocks=facts.num_blocks,
        max_model_len=facts.max_model_len,
        max_num_seqs=facts.max_num_seqs,
        max_num_batched_tokens=facts.max_num_batched_tokens,
        kv_events=False,
    )
    print(f"{facts}")
    await run.play(open_loop(chance, 20, 10.0))  # the engine's first steps are slow, and nobody's measure
    for rate in (4.0, 8.0, 12.0):
        model = await _measure(run, chance)  # anew each time: a machine with other work on it changes by the minute
        workload = open_loop(chance, 150, rate)
        real = await run.play(workload)
        # What the client really did: it may have been late to send.
        sent = [Arrival(timed.arrival_s, asked.prompt, asked.output_tokens) for timed, asked in zip(real, workload, strict=True)]
        simulated, _ = Replay(config, model, _DEPTH).run(sent)
        print_errors(f"held back: {len(workload)} requests, {rate:g} per second", real, simulated)


async def _measure(run: RealRun, chance: random.Random) -> StepModel:
    """Runs the probes and fits the step model to them."""
    samples = []
    for batch in probes(chance):
        await run.play(batch)
        samples += run.samples
    model = fit_steps(samples)
    errors = relative_errors(samples, model)
    print(f"\nload average of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{len(samples)} measured steps, of which the model is off by {median(errors):.1%} in the median")
    print_model(model)
    return model


def prompt(chance: random.Random, tokens: int) -> list[int]:
    """Random tokens: no two prompts share a block."""
    return [chance.choice(_TOKENS) for _ in range(tokens)]


def probes(chance: random.Random) -> Iterator[list[Arrival]]:
    """Some 80 steps of every kind: prompts alone, decode batches behind short and long prompts, and prompts that join a batch."""
    for tokens in (32, 128, 512, 1024, 1900):
        for _ in range(2):
            yield [Arrival(0.0, prompt(chance, tokens), 1)]
    for batch, tokens in ((1, 64), (4, 256), (16, 64), (16, 512), (40, 32)):
        yield [Arrival(0.0, prompt(chance, tokens), 8) for _ in range(batch)]
    for batch, tokens in ((4, 256), (16, 768)):
        running = [Arrival(0.0, prompt(chance, 64), 12) for _ in range(batch)]
        yield [*running, Arrival(0.05, prompt(chance, tokens), 4)]


def open_loop(chance: random.Random, requests: int, per_s: float) -> list[Arrival]:
    """Poisson arrivals; prompts of 16 to 1,500 tokens and outputs of 2 to 96, both spread evenly over their logarithm."""
    times = itertools.accumulate(chance.expovariate(per_s) for _ in range(requests))
    return [Arrival(at, prompt(chance, round(16 * (1500 / 16) ** chance.random())), round(2 * 48 ** chance.random())) for at in times]


class RealRun:
    """Plays workloads on an engine, one after the other, and says what each step of the last one computed and took.

    The engine tells of each step at its end, with one token of every request that it computed to its end. From who is in it
    follows the work: a request's first token is its whole prompt, another is one token behind all before. Where prompts are
    more than a step's budget some are computed in chunks, and who had how much cannot be seen: such steps are no samples.
    A step began when the last one ended, or when the first request came to an idle engine.
    """

    def __init__(self, engine: VllmEngine, budget_tokens: int) -> None:
        self._engine = engine
        self._budget_tokens = budget_tokens
        self._runs = 0
        self.samples: list[tuple[StepWork, float]] = []

    async def play(self, arrivals: Sequence[Arrival]) -> list[Timed]:
        """Sends each request when it is due and waits for all; seconds since the call."""
        self._runs += 1
        self.samples = []
        zero = time.perf_counter()
        sent: dict[str, float] = {}
        tokens: dict[str, list[float]] = {f"{self._runs}-{index}": [] for index in range(len(arrivals))}
        asked = dict(zip(tokens, arrivals, strict=True))
        reading = asyncio.create_task(self._read(zero, asked, sent, tokens))
        try:
            for leg, arrival in asked.items():
                await asyncio.sleep(max(0.0, zero + arrival.at_s - time.perf_counter()))
                sent[leg] = time.perf_counter() - zero
                await self._engine.add(_request(leg, arrival))
            async with asyncio.timeout(300):
                await reading
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
        return [Timed(sent[leg], tokens[leg][0], tokens[leg][-1], len(tokens[leg])) for leg in asked]

    async def _read(self, zero: float, asked: dict[str, Arrival], sent: dict[str, float], tokens: dict[str, list[float]]) -> None:
        open_legs = set(asked)
        last_s = 0.0
        whole_before = True
        while open_legs:
            outputs, _ = await self._engine.step()
            now = time.perf_counter() - zero
            legs = [output.request_id for output in outputs.outputs if output.new_token_ids]
            if not legs:
                continue
            news = [asked[leg] for leg in legs if not tokens[leg]]
            olds = [len(asked[leg].prompt) + len(tokens[leg]) for leg in legs if tokens[leg]]
            lengths = [len(arrival.prompt) for arrival in news]
            work = StepWork(sum(lengths), sum(length**2 for length in lengths), len(olds), sum(olds))
            idle = not any(tokens[leg] for leg in sent if leg in open_legs)
            began = max(last_s, min(sent[leg] for leg in legs)) if idle else last_s
            whole = sum(len(asked[leg].prompt) for leg in sent if not tokens[leg]) + len(olds) <= self._budget_tokens
            if whole and whole_before:
                self.samples.append((work, now - began))
            whole_before = whole
            last_s = now
            for leg in legs:
                tokens[leg].append(now)
            open_legs -= {output.request_id for output in outputs.outputs if output.finished}


def _request(leg: str, arrival: Arrival) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=leg,
        prompt_token_ids=arrival.prompt,
        mm_features=None,
        sampling_params=SamplingParams(temperature=0.0, max_tokens=arrival.output_tokens, ignore_eos=True),
        pooling_params=None,
        arrival_time=time.time(),
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
