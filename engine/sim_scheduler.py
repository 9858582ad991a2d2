"""The simulated engine's scheduler: vLLM's continuous batching over simulated blocks. Pure: no clock, no waiting, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from core.ids import LegId
from engine.base import EngineStats, Transfer
from engine.sim_blocks import BlockPool
from engine.sim_cache import SequenceCache
from engine.sim_config import SimulatedEngineConfig
from engine.sim_leases import Leases
from engine.sim_request import Emitted, KeptPrompt, Mark, PromptCounts, RemotePrompt, SimRequest, SimSequence
from engine.sim_step import Chunk, Pull, Step, StepResult
from engine.sim_tokens import TokenRule


class SimScheduler:
    """Requests in, steps out: ``schedule`` decides the next step, ``finish`` says what came of it, in turns.

    Every other method may be called at any time, also while a step is under way. Times are seconds on any one clock.
    Rules, as vLLM's: running requests go before waiting ones, those in order of arrival; a step computes at most
    ``max_num_batched_tokens``, long prompts in chunks; the last token of a prompt is always computed here; without a
    free block the youngest running request starts over. A request is admitted with the blocks of all its tokens so far.
    """

    def __init__(self, config: SimulatedEngineConfig) -> None:
        self._config = config
        self._rule = TokenRule(config.vocab_size, config.special_token_ids, config.eos_token_id, config.mean_output_tokens)
        self._pool = BlockPool(config.num_blocks)
        self._cache = SequenceCache(self._pool, config.block_size_tokens)
        self._leases = Leases(config.lease_s)
        self._sequences: dict[LegId, SimSequence] = {}
        self._waiting: deque[SimSequence] = deque()
        self._pulling: dict[LegId, tuple[SimSequence, Pull]] = {}
        self._arrived: deque[SimSequence] = deque()
        """Their pull ended; they hold blocks and go before ``_waiting``."""
        self._running: list[SimSequence] = []
        self._failed: list[Emitted] = []
        self._transfers: list[Transfer] = []
        self._released: list[LegId] = []
        self._expired: list[LegId] = []
        self._computed_prompt_tokens = 0
        self._received_bytes = 0

    @property
    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting) + len(self._pulling) + len(self._arrived),
            free_blocks=self._pool.free_blocks,
            num_blocks=self._pool.num_blocks,
            computed_prompt_tokens=self._computed_prompt_tokens,
            received_bytes=self._received_bytes,
        )

    @property
    def next_expiry_s(self) -> float | None:
        """When ``schedule`` has something to do even if nothing is called before; None: never."""
        return self._leases.next_expiry_s

    def unpulled(self) -> Iterator[RemotePrompt]:
        """The kept prompts that waiting requests have still to pull."""
        return (sequence.remote for sequence in self._waiting if sequence.remote is not None)

    # What is asked

    def add(self, request: SimRequest, now: float) -> None:
        """Queues a request; one that can never fit ends with an error in the next result."""
        if not request.prompt or request.num_given > self._config.max_model_len:
            self.refuse(request.leg)
            return
        sequence = SimSequence(request, self._rule, now)
        self._sequences[request.leg] = sequence
        self._waiting.append(sequence)

    def refuse(self, leg: LegId) -> None:
        """Ends a request that was never queued with an error in the next result."""
        self._failed.append(Emitted(leg, None, "error"))

    def abort(self, leg: LegId) -> RemotePrompt | None:
        """Ends a request, in whatever state, and frees its blocks. Returns the kept prompt it has not read, if any."""
        self.release(leg)
        self._failed = [failed for failed in self._failed if failed.leg != leg]
        sequence = self._sequences.pop(leg, None)
        if sequence is None:
            return None
        sequence.ended = True
        self._cache.drop(sequence)
        self._pulling.pop(leg, None)
        if sequence in self._running:
            self._running.remove(sequence)
        for queue in (self._waiting, self._arrived):
            if sequence in queue:
                queue.remove(sequence)
        return sequence.remote

    def release(self, leg: LegId) -> bool:
        """Ends a finished request's lease and frees its blocks; False where there is none."""
        kept = self._leases.end(leg)
        if kept is None:
            return False
        self._pool.drop(kept.blocks)
        self._released.append(leg)
        return True

    def renew(self, leg: LegId, now: float) -> bool:
        """Starts a lease anew, for a reader that is still coming; False where there is none."""
        return self._leases.renew(leg, now)

    def pulled(self, leg: LegId, now: float) -> None:
        """A pull is complete. Unknown legs (aborted meanwhile) are ignored."""
        if leg not in self._pulling:
            return
        sequence, pull = self._pulling.pop(leg)
        self._received_bytes += pull.transfer_bytes
        self._transfers.append(Transfer(leg, pull.transfer_bytes, now - sequence.pull_started_s))
        local = sequence.computed
        sequence.computed = min(pull.remote.tokens, sequence.request.num_given)
        sequence.counts = PromptCounts(sequence.request.num_given, local, sequence.computed - local)
        self._cache.store(sequence)
        sequence.computed = min(sequence.computed, len(sequence.tokens) - 1)
        sequence.remote = None
        self._arrived.append(sequence)

    def pull_failed(self, leg: LegId) -> None:
        """Nothing came: the prompt is computed here. Unknown legs are ignored."""
        if leg not in self._pulling:
            return
        sequence, _ = self._pulling.pop(leg)
        sequence.remote = None
        self._arrived.append(sequence)

    def clear_cache(self) -> bool:
        """Forgets all cached prefixes; False, and no change, while any block is in use."""
        return self._pool.clear()

    # Steps

    def schedule(self, now: float) -> Step:
        """Decides the next step. One without chunks takes no time: finish it, then wait for a call or ``next_expiry_s``."""
        for leg, kept in self._leases.expire(now):
            self._pool.drop(kept.blocks)
            self._released.append(leg)
            self._expired.append(leg)
        step = Step()
        budget, preempted = self._continue_running(step, now)
        if not preempted or not step.chunks:
            self._admit(step, budget, now)
        return step

    def finish(self, step: Step, now: float) -> StepResult:
        """Accounts for a step that took until ``now``; requests aborted meanwhile say nothing."""
        emitted, self._failed = self._failed, []
        for chunk in step.chunks:
            sequence = chunk.sequence
            if sequence.ended:
                continue
            sequence.computed = chunk.end
            self._computed_prompt_tokens += max(0, min(chunk.end, sequence.request.num_given) - chunk.start)
            self._cache.store(sequence)
            if sequence.computed == len(sequence.tokens):
                emitted.append(self._emit(sequence, now))
        self._running = [sequence for sequence in self._running if not sequence.ended]
        result = StepResult(emitted, self._transfers, self._released, self._expired, self._pool.take_events())
        self._transfers, self._released, self._expired = [], [], []
        return result

    def _continue_running(self, step: Step, now: float) -> tuple[int, bool]:
        """Gives running requests their tokens. Returns the tokens left in the step's budget and whether any was preempted."""
        budget = self._config.max_num_batched_tokens
        preempted = False
        index = 0
        while index < len(self._running) and budget:
            sequence = self._running[index]
            tokens = min(len(sequence.tokens) - sequence.computed, budget)
            if not self._cache.grow(sequence, sequence.computed + tokens):
                # The youngest goes first. It is never one that already has tokens in this step: those are older.
                self._preempt(self._running.pop(), now)
                preempted = True
                continue
            step.chunks.append(Chunk(sequence, sequence.computed, tokens))
            budget -= tokens
            index += 1
        return budget, preempted

    def _admit(self, step: Step, budget: int, now: float) -> None:
        """Starts waiting requests, and the pulls of those that have something to pull, until the first that does not fit."""
        while budget and len(self._running) < self._config.max_num_seqs:
            if self._arrived:
                sequence = self._arrived.popleft()
            elif self._waiting and self._cache.place(self._waiting[0]):
                sequence = self._waiting.popleft()
                sequence.counts = sequence.counts or PromptCounts(sequence.request.num_given, sequence.computed, 0)
                if self._start_pull(sequence, step, now):
                    continue
            else:
                return
            sequence.marks.append((Mark.SCHEDULED, now))
            tokens = min(len(sequence.tokens) - sequence.computed, budget)
            step.chunks.append(Chunk(sequence, sequence.computed, tokens))
            self._running.append(sequence)
            budget -= tokens

    def _start_pull(self, sequence: SimSequence, step: Step, now: float) -> bool:
        """Parks a placed request until its remote prompt is here; False where nothing is missing."""
        if sequence.remote is None:
            return False
        tokens = min(sequence.remote.tokens, sequence.request.num_given) - sequence.computed
        if tokens <= 0:
            step.dismissed.append(sequence.remote)
            sequence.remote = None
            return False
        transfer_bytes = self._cache.blocks_for(tokens) * self._config.block_size_tokens * self._config.kv_bytes_per_token
        pull = Pull(sequence.request.leg, sequence.remote, transfer_bytes)
        sequence.pull_started_s = now
        self._pulling[pull.leg] = (sequence, pull)
        step.pulls.append(pull)
        return True

    def _preempt(self, sequence: SimSequence, now: float) -> None:
        """Takes all blocks of a running request; it is the next to be admitted, and computes its tokens so far again."""
        self._cache.drop(sequence)
        sequence.marks.append((Mark.PREEMPTED, now))
        self._waiting.appendleft(sequence)

    def _emit(self, sequence: SimSequence, now: float) -> Emitted:
        """Samples a sequence's next token and ends it where that token, or the length, says so."""
        request = sequence.request
        token = sequence.sample()
        counts = sequence.counts if len(sequence.tokens) == request.num_given + 1 else None
        marks = sequence.take_marks()
        if token == request.eos_token_id:
            return Emitted(request.leg, token, "stop", None, counts, self._end(sequence, now), marks)
        if token in request.stop_token_ids:
            return Emitted(request.leg, token, "stop", token, counts, self._end(sequence, now), marks)
        if sequence.num_outputs >= request.max_tokens or len(sequence.tokens) >= self._config.max_model_len:
            return Emitted(request.leg, token, "length", None, counts, self._end(sequence, now), marks)
        return Emitted(request.leg, token, counts=counts, marks=marks)

    def _end(self, sequence: SimSequence, now: float) -> KeptPrompt | None:
        """Ends a request by itself: its blocks are freed, or kept under a lease where that was asked."""
        sequence.ended = True
        del self._sequences[sequence.request.leg]
        if not sequence.request.keep:
            self._cache.drop(sequence)
            return None
        self._leases.keep(sequence.request.leg, sequence.blocks, now)
        return KeptPrompt(list(sequence.blocks), sequence.computed)
