"""One kind of engine, and how fast its workers are in either role, or in both."""

from __future__ import annotations

import math
from functools import cached_property

import msgspec

from engine.performance.plan.curve import Curve
from engine.performance.plan.waiting import InTurn, Waits, largest
from engine.performance.plan.workload import Objectives, Prompt, Workload
from engine.performance.roofline.memory import Memory, kv_bytes_per_token, largest_batch, memory
from engine.performance.roofline.roofline import Roofline
from engine.performance.roofline.step import Chunk, Step

_MOST_ANSWERS = 1024
"""That one group of GPUs is asked for at once: beyond, vLLM's scheduler, which is not in this model, is what takes time."""

_ONE = 1.0 - 1e-6
_TOGETHER = 0.4
"""Prompts that a step computes together all end with it, and who comes meanwhile waits for all of them: so much longer are waits, as
simulated queues have it, where a step holds many."""


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
    def gpu(self) -> str:
        return self.roofline.hardware.name

    @property
    def gpus(self) -> int:
        return self.roofline.setup.layout.gpus

    @property
    def groups(self) -> int:
        """Of GPUs in one worker, each with requests of its own (data parallel)."""
        return self.roofline.setup.layout.groups

    @cached_property
    def memory(self) -> Memory:
        """Of the fullest GPU."""
        return memory(self.roofline.setup, self.roofline.hardware, Step((Chunk(float(self.budget_tokens)),)))

    @cached_property
    def max_batch(self) -> int:
        """Requests that a group answers at once: as many as have their KV there when complete; 0: the model does not fit."""
        return min(_MOST_ANSWERS, largest_batch(self.roofline.setup, self.memory, self.workload.full_tokens))

    @property
    def kv_tokens(self) -> int:
        """That a worker has room for."""
        full = self.workload.full_tokens
        return round(largest_batch(self.roofline.setup, self.memory, full / 1000.0) * full / 1000.0) * self.groups

    @cached_property
    def kv_bytes(self) -> float:
        """Of one prompt, to be handed over."""
        return kv_bytes_per_token(self.roofline.setup) * self.workload.input_tokens

    @cached_property
    def prompt_s(self) -> tuple[float, ...]:
        """One prompt of each size by itself, in chunks."""
        return tuple(self._prompts_s(size, 1) for size in self.workload.sizes)

    @cached_property
    def prompts_among_others_s(self) -> tuple[float, ...]:
        """The share of each size in a step that is as full of such prompts as may be."""
        together = [max(1, self.budget_tokens // size.new_tokens) for size in self.workload.sizes]
        return tuple(self._prompts_s(size, count) / count for size, count in zip(self.workload.sizes, together, strict=True))

    @cached_property
    def prompt_among_others_s(self) -> float:
        """On average over prompts."""
        return sum(self.prompts_among_others_s) / len(self.prompts_among_others_s)

    @cached_property
    def variation(self) -> float:
        """Of what prompts take: variance over the mean's square."""
        mean = self.prompt_among_others_s
        return sum((each - mean) ** 2 for each in self.prompts_among_others_s) / len(self.prompts_among_others_s) / mean**2

    @cached_property
    def decode_s(self) -> Curve:
        """A step of so many requests."""
        return Curve(lambda batch: self._step_of(batch, 0), self._most)

    @cached_property
    def beside_s(self) -> Curve:
        """The same step beside a chunk from the middle of a prompt."""
        return Curve(lambda batch: self._step_of(batch, self.chunk_tokens), self._most)

    @cached_property
    def chunk_tokens(self) -> int:
        return min(self.workload.new_tokens, self.budget_tokens)

    def prompt_waits(self, workers: int, rate_per_s: float) -> Waits:
        """For a worker that computes prompts alone."""
        return self._prompt_waits(workers * self.groups, rate_per_s, self.prompt_among_others_s)

    def prefill_pace(self, workers: int, rate_per_s: float, objectives: Objectives) -> Pace:
        """Of workers that compute prompts alone."""
        return Pace(ttft_s=InTurn(self.prompt_waits(workers, rate_per_s)).within_s(self.prompt_s, objectives.share))

    def prefill_rate(self, workers: int, objectives: Objectives) -> float:
        """Requests per second that they keep the promised time to the first token for."""
        if self.max_batch < 1:
            return 0.0
        if (known := self._prefill_rates.get((workers, objectives))) is not None:
            return known
        late = 1.0 - objectives.share
        limit = workers * self.groups / self.prompt_among_others_s
        found = largest(lambda rate: InTurn(self.prompt_waits(workers, rate)).late(self.prompt_s, objectives.ttft_s) <= late, limit)
        self._prefill_rates[workers, objectives] = found
        return found

    def answer_waits(self, workers: int, rate_per_s: float, tpot_s: float) -> Waits:
        """For room to be answered within ``tpot_s`` per token: the router has a request wait where there is none."""
        return self._answer_waits(workers * self.groups, self._batch(rate_per_s / (workers * self.groups), 0.0), 0.0, tpot_s)

    def decode_limit(self, workers: int, tpot_s: float) -> float:
        """Requests per second with which workers that make answers alone are all full, at ``tpot_s`` per token."""
        room = self._room(0.0, tpot_s)
        return workers * self.groups * room / (self.workload.output_tokens * self.decode_s(room)) if room >= _ONE else 0.0

    def decode_pace(self, rate_per_s: float) -> Pace:
        """Of one worker that makes answers alone."""
        batch = self._batch(rate_per_s / self.groups, 0.0)
        return Pace(tpot_s=self.decode_s(batch), batch=batch)

    def whole_pace(self, workers: int, rate_per_s: float, objectives: Objectives) -> Pace | None:
        """Of workers that do both: answers wait while prompts' chunks are computed. None: they cannot keep up."""
        found = self._whole(workers, rate_per_s, objectives)
        if found is None:
            return None
        batch, tpot_s, waits, own_s = found
        return Pace(waits.within_s(own_s, objectives.share), tpot_s, batch)

    def whole_rate(self, workers: int, objectives: Objectives) -> float:
        """Requests per second that they keep both promises for."""
        if self.max_batch < 1:
            return 0.0
        limit = workers * self.groups / self.prompt_among_others_s
        return largest(lambda rate_per_s: self.whole_keeps(workers, rate_per_s, objectives), limit)

    def whole_keeps(self, workers: int, rate_per_s: float, objectives: Objectives) -> bool:
        """Whether they keep both promises for so many requests per second."""
        found = self._whole(workers, rate_per_s, objectives)
        return found is not None and found[2].late(found[3], objectives.ttft_s) <= 1.0 - objectives.share

    def _whole(self, workers: int, rate_per_s: float, objectives: Objectives) -> tuple[float, float, InTurn, list[float]] | None:
        """How many are answered at once, in which steps, what prompts wait and then take. None: more come than there is room for."""
        queues = workers * self.groups
        each = rate_per_s / queues
        prompt_tokens_per_s = each * self.workload.new_tokens
        batch = self._batch(each, prompt_tokens_per_s)
        if not math.isfinite(batch):
            return None
        room = self._answer_waits(queues, batch, prompt_tokens_per_s, objectives.tpot_s)
        if math.isinf(room.mean_s):
            return None
        beside_s, tpot_s = self.beside_s(batch), self._step_s(batch, prompt_tokens_per_s)
        waits = self._prompt_waits(queues, rate_per_s, self.workload.new_tokens / self.chunk_tokens * beside_s)
        # Whoever comes finds a step under way.
        own_s = [tpot_s / 2.0 + size.new_tokens / self.chunk_tokens * beside_s for size in self.workload.sizes]
        return batch, tpot_s, InTurn(waits, room), own_s

    def _prompt_waits(self, queues: int, rate_per_s: float, service_s: float) -> Waits:
        together = max(1.0, self.budget_tokens / self.workload.new_tokens)
        longer = 1.0 + _TOGETHER * (1.0 - 1.0 / together)
        waits = Waits.of(rate_per_s * service_s / queues, service_s, queues, self.variation)
        return Waits(waits.waiting, waits.mean_s * longer)

    def _answer_waits(self, queues: int, batch: float, prompt_tokens_per_s: float, tpot_s: float) -> Waits:
        room = self._room(prompt_tokens_per_s, tpot_s)
        if room < _ONE or batch >= room:
            return Waits(1.0, math.inf)
        service_s = self.workload.output_tokens * self._step_s(batch, prompt_tokens_per_s)
        return Waits.of(batch / room, service_s, queues * room, self.workload.answer_variation)

    def _room(self, prompt_tokens_per_s: float, tpot_s: float) -> float:
        """Requests that a group can answer at once within ``tpot_s`` per token."""
        if not prompt_tokens_per_s:
            return min(float(self.max_batch), self.decode_s.reached(tpot_s))
        return largest(lambda batch: self._step_s(batch, prompt_tokens_per_s) <= tpot_s, float(self.max_batch))

    def _batch(self, rate_per_s: float, prompt_tokens_per_s: float) -> float:
        """How many are answered at once, as answers take the longer the more there are; infinite where they grow without end."""
        tokens_per_s = rate_per_s * self.workload.output_tokens
        if not prompt_tokens_per_s:
            return self.decode_s.settled(tokens_per_s)
        end = 2.0 * self._most

        def grows(batch: float) -> bool:
            return batch <= tokens_per_s * self._step_s(batch, prompt_tokens_per_s)

        return math.inf if grows(end) else largest(grows, end)

    def _step_s(self, batch: float, prompt_tokens_per_s: float) -> float:
        """Of decode steps, some of which compute a chunk as well: as many as prompts need."""
        alone = self.decode_s(batch)
        if not prompt_tokens_per_s:
            return alone
        added = prompt_tokens_per_s * (self.beside_s(batch) - alone) / self.chunk_tokens
        return alone / (1.0 - added) if added < 1.0 else math.inf

    @cached_property
    def _prefill_rates(self) -> dict[tuple[int, Objectives], float]:
        """What has been found already: a search asks again and again."""
        return {}

    @cached_property
    def _most(self) -> float:
        return 2.0 * max(self.max_batch, 1)

    def _step_of(self, batch: float, prompt_tokens: int) -> float:
        chunks: tuple[Chunk, ...] = ()
        if prompt_tokens:
            chunks = (Chunk(float(prompt_tokens), self.workload.cached_tokens + (self.workload.new_tokens - prompt_tokens) / 2.0),)
        return self.roofline.step_s(Step(chunks, batch, batch * self.workload.context_tokens))

    def _prompts_s(self, size: Prompt, count: int) -> float:
        seconds, done = 0.0, 0
        while done < size.new_tokens:
            tokens = min(self.budget_tokens, size.new_tokens - done)
            seconds += self.roofline.step_s(Step((Chunk(float(tokens), float(size.cached_tokens + done), float(count)),)))
            done += tokens
        return seconds
