"""The simulated engine's scheduler: vLLM's continuous batching over simulated blocks. Pure: no clock, no waiting, no I/O.

Like vLLM 0.32 (``v1/core/sched/scheduler.py``, ``kv_cache_manager.py``, ``block_pool.py``), with the same names in the configuration
where it has one; ``tests/contract/test_scheduler_likeness.py`` runs both side by side:

- A step computes at most ``max_num_batched_tokens``: running requests first, in the order they were admitted, then waiting ones.
  Prompts are computed in chunks, of at most the long-prefill threshold where another request is there.
- ``fcfs`` admits in order of arrival, ``priority`` by priority, then arrival. Without a free block the last admitted (``fcfs``) or
  the worst by that order (``priority``, even if it had its turn in this step) is preempted: it loses its blocks and computes all its
  tokens again. Nobody is admitted in a step that preempts.
- A request is admitted with the blocks of its first chunk, when all its tokens so far would have room, beside running ones with the
  watermark on top. The first that has no room stops the others.
- Full blocks can be found from the moment they are scheduled, also within the same step; the last token of a prompt is always
  computed. Blocks are evicted least recently used first, the end of a prompt before its beginning, nameless ones before all.
- A pull holds its blocks from its start, takes no tokens of a step, and starts only with room for what the prefills under way still
  need. When it is over it goes before every request that holds no blocks.

Knowingly not like vLLM: nothing is scheduled ahead (``async_scheduling``); no speculative tokens, LoRA, encoders, sliding windows or
Mamba; removed blocks are told in groups; a failed pull keeps its blocks and is computed into them; a step that preempted whoever had
a turn is not empty but planned anew; a prompt that can never fit ends with an error; there is no null block, so that vLLM with N GPU
blocks is ``num_blocks = N - 1`` here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from core.ids import LegId
from engine.base import EngineStats, Transfer
from engine.sim_blocks import BlockPool
from engine.sim_cache import SequenceCache
from engine.sim_config import SimulatedEngineConfig
from engine.sim_leap import Gaps, growth, most_steps
from engine.sim_leases import Leases
from engine.sim_queue import WaitingQueue
from engine.sim_request import Emitted, KeptPrompt, PromptCounts, RemotePrompt, SimRequest
from engine.sim_sequence import SimSequence
from engine.sim_step import Chunk, Pull, Step, StepResult
from engine.sim_tokens import TokenRule


class SimScheduler:
    """Requests in, steps out: ``schedule`` decides the next step, ``finish`` says what came of it, in turns.

    Every other method may be called at any time, also while a step is under way. Times are seconds on any one clock.
    """

    def __init__(self, config: SimulatedEngineConfig) -> None:
        self._config = config
        self._by_priority = config.policy == "priority"
        self._watermark_blocks = int(config.watermark * config.num_blocks)
        self._rule = TokenRule(config.vocab_size, config.special_token_ids, config.eos_token_id, config.mean_output_tokens)
        self._pool = BlockPool(config.num_blocks)
        self._cache = SequenceCache(self._pool, config.block_size_tokens)
        self._leases = Leases(config.lease_s)
        self._sequences: dict[LegId, SimSequence] = {}
        self._added = 0
        self._put_back = 0
        self._waiting = WaitingQueue()
        self._pulling: dict[LegId, tuple[SimSequence, Pull]] = {}
        self._arrived = WaitingQueue()
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
            waiting=self._num_waiting,
            free_blocks=self._pool.free_blocks,
            num_blocks=self._pool.num_blocks,
            computed_prompt_tokens=self._computed_prompt_tokens,
            received_bytes=self._received_bytes,
        )

    @property
    def _num_waiting(self) -> int:
        return len(self._waiting) + len(self._pulling) + len(self._arrived)

    @property
    def next_expiry_s(self) -> float | None:
        """When ``schedule`` has something to do even if nothing is called before; None: never."""
        return self._leases.next_expiry_s

    def unpulled(self) -> Iterator[RemotePrompt]:
        """The kept prompts that waiting requests have still to pull."""
        return (sequence.remote for sequence in self._waiting if sequence.remote is not None)

    def tokens_made(self, leg: LegId, leap_steps: int = 0) -> int | None:
        """Tokens a request has made here in the steps that are finished, and in ``leap_steps`` of the leap under way.

        None for one that has ended or was never added.
        """
        sequence = self._sequences.get(leg)
        if sequence is None:
            return None
        # Whoever has told a token and holds blocks is running, and a leap is of all that run.
        return sequence.tokens_made + (leap_steps if sequence.tokens_made and sequence.blocks else 0)

    # What is asked

    def add(self, request: SimRequest, now: float) -> None:
        """Queues a request; one that can never fit ends with an error in the next result."""
        if not len(request.prompt) or request.num_given > self._config.max_model_len:
            self.refuse(request.leg)
            return
        sequence = SimSequence(request, self._rule, self._config.block_size_tokens, self._config.max_model_len, now)
        self._added += 1
        if self._by_priority:
            sequence.order = (request.priority, sequence.arrival_s, request.leg, self._added)
        else:
            sequence.order = (0, 0.0, "", self._added)
        self._sequences[request.leg] = sequence
        self._waiting.push(sequence)

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
        if sequence in self._running:
            self._running.remove(sequence)
        elif self._pulling.pop(leg, None) is None:
            queue = self._arrived if sequence.blocks else self._waiting
            queue.forget_ended()
        sequence.ended = True
        self._cache.drop(sequence)
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
        sequence.computed = min(pull.remote.tokens, sequence.given)
        sequence.counts = PromptCounts(sequence.given, local, sequence.computed - local)
        sequence.remote = None
        self._arrived.push(sequence)

    def pull_failed(self, leg: LegId) -> None:
        """Nothing came: the prompt is computed here. Unknown legs are ignored."""
        if leg not in self._pulling:
            return
        sequence, _ = self._pulling.pop(leg)
        sequence.remote = None
        self._arrived.push(sequence)

    def clear_cache(self) -> bool:
        """Forgets all cached prefixes; False, and no change, while any block is in use."""
        return self._pool.clear()

    # Steps

    def schedule(self, now: float, limit_steps: int = 1) -> Step:
        """Decides the next step. One without chunks takes no time: finish it, then wait for a call or ``next_expiry_s``.

        With a higher ``limit_steps`` it may be a leap, of as many steps at most. Whatever is called before its end could have changed
        one of them: ``cut`` it, before the call, to the step that is under way.
        """
        for leg, kept in self._leases.expire(now):
            self._pool.drop(kept.blocks)
            self._released.append(leg)
            self._expired.append(leg)
        step = Step()
        budget, preempted = self._continue_running(step, now)
        while preempted and not step.chunks:
            budget, preempted = self._continue_running(step, now)
        if not preempted:
            self._admit(step, budget, now)
        # What waits to be told is told with the next result: no leap holds it back.
        untold = self._failed or self._transfers or self._released or self._pool.has_events
        if limit_steps > 1 and not preempted and not untold and len(step.chunks) == len(self._running):
            blocked = bool(self._waiting or self._arrived)
            step.steps = most_steps(step.chunks, self._config.block_size_tokens, self._pool.free_blocks, blocked, limit_steps)
        return step

    def cut(self, step: Step, steps: int) -> None:
        """Shortens a leap to those of its ``steps`` that have begun, so that what is asked now finds their blocks taken and named."""
        step.steps = steps
        size = self._config.block_size_tokens
        for chunk in step.chunks:
            sequence, end = chunk.sequence, chunk.start + steps
            if sequence.ended:
                continue
            if end > len(sequence.blocks) * size:
                self._cache.grow(sequence, end)
            if end // size > sequence.stored:
                self._cache.store(sequence, end)

    def growth(self, step: Step, steps: int) -> int:
        """Blocks that the first ``steps`` steps of a leap take beyond those taken yet."""
        return growth([chunk for chunk in step.chunks if not chunk.sequence.ended], self._config.block_size_tokens, steps)

    def finish(self, step: Step, now: float, gaps: Gaps | None = None) -> StepResult:
        """Accounts for a step, or all steps of a leap with ``gaps`` between its tokens, that took until ``now``.

        Requests aborted meanwhile say nothing.
        """
        emitted, self._failed = self._failed, []
        if step.steps > 1 and gaps is not None:
            self.cut(step, step.steps)
            self._finish_leap(step, now, gaps, emitted)
        else:
            self._finish_one(step, now, emitted)
        self._running = [sequence for sequence in self._running if not sequence.ended]
        result = StepResult(emitted, self._transfers, self._released, self._expired, self._pool.take_events())
        self._transfers, self._released, self._expired = [], [], []
        return result

    def _finish_one(self, step: Step, now: float, emitted: list[Emitted]) -> None:
        for chunk in step.chunks:
            sequence = chunk.sequence
            if sequence.ended:
                continue
            start, end = chunk.start, chunk.start + chunk.tokens
            sequence.computed = end
            if start < sequence.given:
                self._computed_prompt_tokens += min(end, sequence.given) - start
            if end != sequence.length:
                continue
            if sequence.known_end and sequence.given < end < sequence.end_length - 1:
                sequence.count_token(now)  # neither the first nor the last: nothing to tell
            else:
                self._make_token(sequence, now, emitted)

    def _finish_leap(self, step: Step, now: float, gaps: Gaps, emitted: list[Emitted]) -> None:
        """As ``_finish_one`` in every step, at once: none of the sequences makes its first token, and none ends before the last."""
        first_end_s, longest_s = gaps.first_end_s, gaps.longest_s
        for chunk in step.chunks:
            sequence = chunk.sequence
            if sequence.ended:
                continue
            sequence.longest_gap_s = max(sequence.longest_gap_s, first_end_s - sequence.last_token_s, longest_s)
            sequence.last_token_s = gaps.last_begin_s
            sequence.computed = sequence.length = end = chunk.start + step.steps
            if end < sequence.end_length - 1:
                sequence.count_token(now)
            else:
                self._make_token(sequence, now, emitted)

    def _continue_running(self, step: Step, now: float) -> tuple[int, bool]:
        """Gives running requests their tokens. Returns the tokens left in the step's budget and whether any was preempted."""
        budget = self._config.max_num_batched_tokens
        threshold = self._threshold()
        running, chunks, size = self._running, step.chunks, self._config.block_size_tokens
        preempted = False
        index = 0
        while index < len(running) and budget:
            sequence = running[index]
            tokens = min(sequence.length - sequence.computed, budget, threshold)
            end = sequence.computed + tokens
            while end > len(sequence.blocks) * size and not self._cache.grow(sequence, end):
                victim = self._victim()
                if victim < index:  # it had its turn already, and gives it back
                    budget += chunks.pop(victim).tokens
                    index -= 1
                gone = running.pop(victim)
                self._preempt(gone, now)
                preempted = True
                if gone is sequence:
                    return budget, True
            if end // size > sequence.stored:
                self._cache.store(sequence, end)
            chunks.append(Chunk(sequence, sequence.computed, tokens))
            budget -= tokens
            index += 1
        return budget, preempted

    def _threshold(self) -> int:
        """Tokens one request may compute in the next step. Alone it keeps nobody waiting."""
        config = self._config
        eligible = len(self._running) + self._num_waiting
        if not config.long_prefill_threshold_tokens or eligible <= 1:
            return config.max_num_batched_tokens
        share = config.max_num_batched_tokens // eligible if config.long_prefill_adaptive else 0
        return max(config.long_prefill_threshold_tokens, share)

    def _victim(self) -> int:
        """Which of the running requests is preempted next."""
        if not self._by_priority:
            return len(self._running) - 1
        running = self._running
        return max(range(len(running)), key=lambda index: (running[index].order[:2], -index))

    def _admit(self, step: Step, budget: int, now: float) -> None:
        """Starts waiting requests, and the pulls of those that have something to pull, until the first that does not fit."""
        threshold = self._threshold()
        while budget and len(self._running) < self._config.max_num_seqs:
            sequence = self._arrived.peek()
            if sequence is not None:
                if not self._resume(sequence, min(budget, threshold)):
                    return
                self._arrived.pop()
            else:
                sequence = self._waiting.peek()
                if sequence is None or not self._place(sequence, min(budget, threshold), step, now):
                    return
                self._waiting.pop()
                if sequence.remote is not None:
                    continue
            sequence.note_scheduled(now)
            tokens = min(sequence.length - sequence.computed, budget, threshold)
            self._cache.store(sequence, sequence.computed + tokens)
            step.chunks.append(Chunk(sequence, sequence.computed, tokens))
            self._running.append(sequence)
            budget -= tokens

    def _resume(self, sequence: SimSequence, limit_tokens: int) -> bool:
        """Gives a sequence whose pull is over the blocks of its next chunk; False without room. What was pulled can be found now."""
        self._cache.store(sequence, sequence.computed)
        sequence.computed = min(sequence.computed, sequence.length - 1)
        end = min(sequence.length, sequence.computed + limit_tokens)
        missing = self._cache.missing(sequence, sequence.length if self._config.reserve_full_prompt else end)
        if missing + self._headroom() > self._pool.free_blocks:
            return False
        return self._cache.grow(sequence, end)

    def _place(self, sequence: SimSequence, limit_tokens: int, step: Step, now: float) -> bool:
        """Gives a waiting sequence the blocks of its pull, which is started, or of its first chunk; False without room."""
        found = self._cache.find(sequence)
        local = len(found) * self._config.block_size_tokens
        remote = sequence.remote
        here = 0 if remote is None else min(remote.tokens, sequence.given)
        pulls = here > local
        end = here if pulls else min(sequence.length, local + limit_tokens)
        headroom = self._headroom()
        if self._config.reserve_full_prompt and not self._cache.fits(found, sequence.length, headroom):
            return False
        if not self._cache.fits(found, end, headroom + (self._promised() if pulls else 0)):
            return False
        self._cache.place(sequence, found, end)
        if sequence.counts is None:
            sequence.counts = PromptCounts(sequence.given, local, 0)
        if remote is None:
            return True
        if pulls:
            self._start_pull(sequence, remote, here - local, step, now)
        else:
            step.dismissed.append(remote)
            sequence.remote = None
        return True

    def _headroom(self) -> int:
        """Blocks that must stay free when a request is admitted now."""
        return self._watermark_blocks if self._running else 0

    def _promised(self) -> int:
        """Blocks that prefills and pulls under way still need."""
        under_way = [sequence for sequence in self._running if sequence.computed + 1 < sequence.length]
        under_way += [sequence for sequence, _ in self._pulling.values()]
        under_way += self._arrived
        return sum(max(0, self._cache.missing(sequence, sequence.length)) for sequence in under_way)

    def _start_pull(self, sequence: SimSequence, remote: RemotePrompt, tokens: int, step: Step, now: float) -> None:
        """Parks a placed request until its remote prompt is here."""
        transfer_bytes = self._cache.blocks_for(tokens) * self._config.block_size_tokens * self._config.kv_bytes_per_token
        pull = Pull(sequence.request.leg, remote, transfer_bytes)
        sequence.pull_started_s = now
        self._pulling[pull.leg] = (sequence, pull)
        step.pulls.append(pull)

    def _preempt(self, sequence: SimSequence, now: float) -> None:
        """Takes all blocks of a running request; it computes its tokens so far again, in ``fcfs`` as the next to be admitted."""
        self._cache.drop(sequence)
        sequence.note_preempted(now)
        if not self._by_priority:
            self._put_back += 1
            sequence.order = (0, 0.0, "", -self._put_back)
        self._waiting.push(sequence)

    def _make_token(self, sequence: SimSequence, now: float, emitted: list[Emitted]) -> None:
        """Draws a sequence's next token, and ends it where that token, or the length, says so."""
        token = sequence.content.draw()
        sequence.count_token(now)
        request, known_end = sequence.request, sequence.known_end
        ended: Literal["", "stop", "length"] = "length" if sequence.length >= sequence.end_length else ""
        stop_token_id: int | None = None
        if not known_end and (token == request.eos_token_id or token in request.stop_token_ids):
            ended, stop_token_id = "stop", None if token == request.eos_token_id else token
        counts = sequence.counts if sequence.tokens_made == 1 else None
        if ended:
            kept, timeline = self._end(sequence, now), sequence.timeline
            emitted.append(Emitted(request.leg, token, ended, stop_token_id, counts, kept, sequence.take_marks(), timeline))
        elif counts is not None or not known_end:
            emitted.append(Emitted(request.leg, token, counts=counts, marks=sequence.take_marks()))

    def _end(self, sequence: SimSequence, now: float) -> KeptPrompt | None:
        """Ends a request by itself: its blocks are freed, or kept under a lease where that was asked."""
        sequence.ended = True
        del self._sequences[sequence.request.leg]
        if not sequence.request.keep:
            self._cache.drop(sequence)
            return None
        self._leases.keep(sequence.request.leg, sequence.blocks, now)
        return KeptPrompt(list(sequence.blocks), sequence.computed)
