"""One kind of engine, and how fast its workers are in either role, or in both."""

from __future__ import annotations

import math
from functools import cached_property

import msgspec

from engine.performance.plan.waiting import busy, largest, wait_s
from engine.performance.plan.workload import Objectives, Workload
from engine.performance.roofline.memory import kv_bytes_per_token, largest_batch, memory
from engine.performance.roofline.roofline import Roofline
from engine.performance.roofline.step import Chunk, Step


class Pace(msgspec.Struct, frozen=True):
    """What a pool does at a rate."""

    ttft_s: float = 0.0
    """That the promised share of the requests has at most."""
    tpot_s: float = 0.0
    """On average."""
    batch: float = 0.0
    """Requests that each group of GPUs answers at once, on average; a worker without data parallelism is one group."""


class EngineKind(msgspec.Struct, frozen=True, dict=True):
    """A model on so many GPUs of a kind, for one workload. Looks its steps up once."""

    name: str
    roofline: Roofline
    workload: Workload
    budget_tokens: int = 8192
    """A step computes at most."""
    gpu_price_per_h: float = 0.0

    @property
    def gpus(self) -> int:
        return self.roofline.setup.layout.gpus

    @property
    def groups(self) -> int:
        """Of GPUs in one worker, each with requests of its own (data parallel)."""
        return self.roofline.setup.layout.groups

    @cached_property
    def max_batch(self) -> int:
        """Requests whose KV fits in a group at once when their answers are complete; 0: the model does not fit."""
        found = memory(self.roofline.setup, self.roofline.hardware, Step((Chunk(float(self.budget_tokens)),)))
        return largest_batch(self.roofline.setup, found, self.workload.input_tokens + self.workload.output_tokens)

    @property
    def kv_bytes(self) -> float:
        """Of one prompt, to be handed over."""
        return kv_bytes_per_token(self.roofline.setup) * self.workload.input_tokens

    @cached_property
    def prompt_s(self) -> float:
        """One prompt by itself, in chunks."""
        return self._prompts_s(1)

    @cached_property
    def prompt_among_others_s(self) -> float:
        """Its share of a step that is as full of prompts as may be."""
        together = max(1, self.budget_tokens // self.workload.new_tokens)
        return self._prompts_s(together) / together

    def decode_s(self, batch: float, prompt_tokens: float = 0.0) -> float:
        """A step of ``batch`` requests, beside a chunk from the middle of a prompt."""
        chunks: tuple[Chunk, ...] = ()
        if prompt_tokens:
            cached = self.workload.cached_tokens + (self.workload.new_tokens - min(prompt_tokens, self.workload.new_tokens)) / 2.0
            chunks = (Chunk(prompt_tokens, cached),)
        return self.roofline.step_s(Step(chunks, batch, batch * self.workload.context_tokens))

    def prefill_pace(self, workers: int, rate_per_s: float, objectives: Objectives) -> Pace:
        """Of workers that compute prompts alone."""
        waits = wait_s(rate_per_s, self.prompt_among_others_s, workers * self.groups, objectives.share)
        return Pace(ttft_s=self.prompt_s + waits)

    def prefill_rate(self, workers: int, objectives: Objectives) -> float:
        """Requests per second that they keep the promised time to the first token for."""
        limit = workers * self.groups / self.prompt_among_others_s
        if self.max_batch < 1:
            return 0.0
        return largest(lambda rate: self.prefill_pace(workers, rate, objectives).ttft_s <= objectives.ttft_s, limit)

    def decode_rate(self, objectives: Objectives) -> float:
        """Requests per second that one worker, which makes answers alone, keeps the promised time per token for."""
        batch = largest(lambda mean: self._decodes(mean, objectives), float(self.max_batch))
        return self.groups * batch / (self.workload.output_tokens * self.decode_s(batch)) if batch else 0.0

    def decode_pace(self, rate_per_s: float) -> Pace:
        """Of one worker that makes answers alone."""
        batch = self._batch(rate_per_s / self.groups, 0.0)
        return Pace(tpot_s=self.decode_s(max(batch, 1.0)), batch=batch)

    def whole_pace(self, workers: int, rate_per_s: float, objectives: Objectives) -> Pace | None:
        """Of workers that do both: answers wait while prompts' chunks are computed. None: they cannot keep up."""
        each = rate_per_s / (workers * self.groups)
        batch = self._batch(each, each * self.workload.new_tokens)
        if not math.isfinite(batch) or busy(batch, objectives.share) > self.max_batch:
            return None
        chunk = min(self.workload.new_tokens, self.budget_tokens)
        beside, tpot_s = self.decode_s(batch, chunk), self._step_s(batch, each * self.workload.new_tokens)
        waits = wait_s(rate_per_s, self.workload.new_tokens / chunk * beside, workers * self.groups, objectives.share)
        # Whoever comes finds a step under way.
        return Pace(tpot_s / 2.0 + self.workload.new_tokens / chunk * beside + waits, tpot_s, batch)

    def whole_rate(self, workers: int, objectives: Objectives) -> float:
        """Requests per second that they keep both promises for."""
        if self.max_batch < 1:
            return 0.0

        def keeps(rate_per_s: float) -> bool:
            pace = self.whole_pace(workers, rate_per_s, objectives)
            if pace is None or pace.ttft_s > objectives.ttft_s:
                return False
            crowded = busy(pace.batch, objectives.share)
            return self._step_s(crowded, rate_per_s / (workers * self.groups) * self.workload.new_tokens) <= objectives.tpot_s

        return largest(keeps, workers * self.groups / self.prompt_among_others_s)

    def _decodes(self, mean: float, objectives: Objectives) -> bool:
        batch = busy(mean, objectives.share)
        return batch <= self.max_batch and self.decode_s(batch) <= objectives.tpot_s

    def _batch(self, rate_per_s: float, prompt_tokens_per_s: float) -> float:
        """How many are answered at once, as answers take the longer the more there are; infinite where they grow without end."""
        batch = 0.0
        for _ in range(200):
            step_s = self._step_s(max(batch, 1.0), prompt_tokens_per_s)
            more = rate_per_s * self.workload.output_tokens * step_s
            if not math.isfinite(more) or more > 16.0 * max(self.max_batch, 1):
                return math.inf
            if more - batch <= 1e-3 * more:
                return more
            batch = more
        return batch

    def _step_s(self, batch: float, prompt_tokens_per_s: float) -> float:
        """Of decode steps, some of which compute a chunk as well: as many as prompts need."""
        alone = self.decode_s(batch)
        if not prompt_tokens_per_s:
            return alone
        chunk = min(self.workload.new_tokens, self.budget_tokens)
        added = prompt_tokens_per_s * (self.decode_s(batch, chunk) - alone) / chunk
        return alone / (1.0 - added) if added < 1.0 else math.inf

    def _prompts_s(self, count: int) -> float:
        seconds, done, new = 0.0, 0, self.workload.new_tokens
        while done < new:
            tokens = min(self.budget_tokens, new - done)
            seconds += self.roofline.step_s(Step((Chunk(float(tokens), float(self.workload.cached_tokens + done), float(count)),)))
            done += tokens
        return seconds
