"""Baton's own policy: prefill, transfer and decode priced together, in seconds of everybody's time.

A plan's cost is the time its request will probably take, plus the time it takes from others that run where it goes, plus what
broken promises cost. The parts (``TERMS``) are predicted from each worker's own step times, from this router's books and from
what the workers say they do for others. Singles and pairs are priced alike, so a prompt is handed over only where that is
predicted to be better; and decode load counts as it will be when the prompt is done (Mooncake, FAST'25, section 6).
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from core.ids import WorkerId
from core.step_model import StepModel
from core.worker import Role
from router.balancer.base import Policy, Predictions
from router.balancer.candidates import Alone, Candidates
from router.balancer.rate import Rate
from router.plan import Ask, Plan, Scored, View, WorkerView

TERMS = ("queue", "prefill", "transfer", "admit", "decode", "interference", "misses")
SWITCHES = frozenset({*TERMS, "prefix", "foresight", "alone"})
"""What an ablation can leave out: terms, and beside them knowledge of caches, of the future, and plans with one worker."""

_KEPT_PER_SIDE = 4
"""Workers of each pool, the best ones, that are paired; and singles. A thousand workers would make 250,000 pairs."""
_MISS_S = 30.0
"""What one request that misses its objective costs."""
_DOUBT = 0.1
"""By how much of an objective predictions err: the chance of a miss is even at the objective, and small this far below it."""
_UNFORESEEN = 0.2
"""Promises broken, beyond what can be foreseen, by a prompt of ``_LONG_S`` that is computed where others are handed over. Found by
simulating azure_code: with none, up to seven in a hundred requests more break theirs; with more, less is gained by such prompts."""
_LONG_S = 0.05
_BELIEF = 4
"""The model's word against experience: it counts as much as so many answers."""
_HERD = 0.1
"""Costs are blurred by up to this part where others' legs are all there is: routers that see the same must not all do the same."""


@dataclass(slots=True)
class _Prefill:
    """Computing the prompt on one worker."""

    queue_s: float
    prefill_s: float
    stall_s: float
    """By how much it holds up whoever decodes there."""
    step_stall_s: float
    """By how much it makes one step of theirs longer."""
    stalled: int
    """Requests decoding there, which wait meanwhile."""

    @property
    def total_s(self) -> float:
        return self.queue_s + self.prefill_s


@dataclass(slots=True)
class _Decode:
    """Decoding on one worker from some moment on."""

    batch: int
    """Requests beside this one."""
    before_s: float
    """Their step without it."""
    step_s: float
    """With it."""
    alone_s: float
    """The same, if no prompt is computed beside."""
    admit_s: float


class Joint(Policy):
    """``without`` is for ablations: see ``SWITCHES``."""

    def __init__(self, predictions: Predictions, rng: random.Random, without: frozenset[str] = frozenset()) -> None:
        unknown = without - SWITCHES
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))} cannot be left out; what can: {', '.join(sorted(SWITCHES))}")
        self._predictions = predictions
        self._rng = rng
        self._without = without
        self._share = Rate()
        self._handed = Rate()
        self.alone = Alone.NEVER if "alone" in without else Alone.ANY  # type: ignore[misc]  # for everybody else it never differs

    def decide(self, ask: Ask, candidates: Candidates, view: View) -> list[Scored]:
        """The pairs of the workers that are best on their side, and the best singles."""
        pricing = _Pricing(ask, view, self._predictions, self._share, self._handed, self._without)

        def to_prefill_s(worker: WorkerId) -> float:
            return 0.0 if worker == ask.keeper else pricing.prefill(worker).total_s

        prefill = _best([*candidates.prefill, *candidates.full], to_prefill_s)
        soonest_s = to_prefill_s((prefill or candidates.alone)[0])
        decode = _best(candidates.decode, lambda d: pricing.decoding_s(d, soonest_s))
        alone = _best(candidates.alone, lambda w: pricing.prefill(w).total_s + pricing.decoding_s(w, soonest_s))
        plans = [*(Plan(p, d) for p in prefill for d in decode), *(Plan(w, w) for w in alone)]
        return [self._blurred(pricing.scored(plan), view) for plan in plans]

    def score(self, ask: Ask, candidates: Sequence[Plan], view: View) -> list[Scored]:
        pricing = _Pricing(ask, view, self._predictions, self._share, self._handed, self._without)
        return [self._blurred(pricing.scored(plan), view) for plan in candidates]

    def foretell(self, ask: Ask, plan: Plan, view: View) -> Scored:
        """What is to be expected of one plan, whoever has chosen it."""
        return _Pricing(ask, view, self._predictions, self._share, self._handed, self._without).scored(plan)

    def soonest_s(self, ask: Ask, view: View, ahead_tokens: float, everywhere: bool) -> float:
        """When its first token will come, from its arrival, if it waits until workers have taken on so many tokens for others."""
        pricing = _Pricing(ask, view, self._predictions, self._share, self._handed, self._without)
        return ask.waited_s + pricing.soonest_s(ahead_tokens, everywhere)

    def chosen(self, ask: Ask, best: Scored) -> None:
        if best.plan.prefill != ask.keeper:
            self._share.took(best.plan.prefill, best.stall_s, ask.now_s)
        if best.plan.is_split:
            self._handed.took(best.plan.decode, 1.0, ask.now_s)

    def forget(self, worker: WorkerId) -> None:
        self._share.forget(worker)
        self._handed.forget(worker)

    def _blurred(self, scored: Scored, view: View) -> Scored:
        """Ties are broken at random, and where other routers are at work, near ties too."""
        others = max(_others_part(view[scored.plan.prefill]), _others_part(view[scored.plan.decode]))
        cost = scored.cost * (1.0 + _HERD * others * self._rng.random()) + 1e-6 * self._rng.random()
        return replace(scored, cost=cost)


def _best(workers: Sequence[WorkerId], cost: Callable[[WorkerId], float]) -> list[WorkerId]:
    if len(workers) <= _KEPT_PER_SIDE:
        return list(workers)
    return sorted(workers, key=cost)[:_KEPT_PER_SIDE]


def _others_part(seen: WorkerView) -> float:
    others = seen.load.others.legs
    return others / (others + seen.legs + 1)


class _Pricing:
    """One decision: prices, each worked out once."""

    def __init__(self, ask: Ask, view: View, predictions: Predictions, share: Rate, handed: Rate, without: frozenset[str]) -> None:
        self._ask = ask
        self._view = view
        self._predictions = predictions
        self._share = share
        self._handed = handed
        self._without = without
        self._output = max(1.0, ask.expected_tokens)
        self._prefills: dict[WorkerId, _Prefill] = {}
        self._decodings_s: dict[WorkerId, float] = {}

    def _cached(self, worker: WorkerId) -> int:
        """Tokens of the prompt that need not be computed there. The last one always is."""
        if "prefix" in self._without:
            return 0
        return min(self._ask.hits.get(worker, 0), self._ask.prompt_tokens - 1)

    def prefill(self, worker: WorkerId) -> _Prefill:
        """Computing the prompt there from now on."""
        found = self._prefills.get(worker)
        if found is None:
            seen, cached = self._view[worker], self._cached(worker)
            model, budget = self._predictions.step_model(seen), seen.card.facts.max_num_batched_tokens
            decoding = seen.decoding
            beside_s = model.decode_s(decoding, seen.decode_context_tokens) if decoding else 0.0
            new = self._ask.prompt_tokens - cached
            steps = -(-new // budget)
            alone_s = model.prefill_s(new, cached, budget)
            stall_s = alone_s - steps * min(model.prefill_base_s, model.decode_base_s)
            prefill_s = stall_s + steps * beside_s if decoding else alone_s
            queue_s = self._queue_s(seen, model, beside_s) + beside_s / 2  # on average half of the step under way is left
            found = _Prefill(queue_s, prefill_s, stall_s, stall_s / steps, decoding)
            self._prefills[worker] = found
        return found

    def soonest_s(self, ahead_tokens: float, everywhere: bool) -> float:
        """Until the prompt is computed where that is soonest, behind so many tokens that are for nobody yet and go to all alike.

        By prefill workers; ``everywhere``: by others, too, where that breaks no promise now.
        """
        takers = [worker for worker, seen in self._view.items() if seen.card.role is Role.PREFILL] or list(self._view)
        if everywhere and len(takers) < len(self._view):
            others = [worker for worker, seen in self._view.items() if seen.card.role is not Role.PREFILL]
            takers += [worker for worker in others if not self._broken_by_prompt(worker, self.prefill(worker))]
        speed = 0.0
        for worker in takers:
            seen = self._view[worker]
            model, budget = self._predictions.step_model(seen), seen.card.facts.max_num_batched_tokens
            speed += budget / max(1e-9, model.prefill_s(budget, 0, budget))
        return min(self.prefill(worker).total_s for worker in takers) + ahead_tokens / speed

    def _queue_s(self, seen: WorkerView, model: StepModel, beside_s: float) -> float:
        """Until all that is ahead there has been computed; what of the first prompt is done is known by the clock."""
        books, others = seen.books, seen.load.others.prompt_tokens
        ahead = books.uncached_tokens + others
        if not ahead:
            return 0.0
        steps = ahead / seen.card.facts.max_num_batched_tokens
        total_s = model.prefill_token_s * ahead + model.prefill_square_s * books.squares + steps * (model.prefill_base_s + beside_s)
        if not books.uncached_tokens:
            return total_s
        head_s = total_s * books.head_tokens / ahead
        return total_s - min(head_s, self._ask.now_s - books.head_since_s)

    def decode(self, worker: WorkerId, in_s: float) -> _Decode:
        """Decoding there, ``in_s`` seconds from now."""
        ask, seen = self._ask, self._view[worker]
        model = self._predictions.step_model(seen)
        now = ask.now_s
        then = now if "foresight" in self._without else now + in_s
        running = seen.decoding
        own = seen.books.decoding_at(then, now) if seen.books.decoding else 0
        batch = own + seen.load.others.decoding
        context = seen.decode_context_tokens * batch // running if running else 0
        mine = ask.prompt_tokens + int(self._output / 2)
        alone_s = model.decode_s(batch + 1, context + mine)
        busy = 1.0 - min(0.9, self._share_of(seen))
        before_s = model.decode_s(batch, context)
        # However many prompts come, a step computes no more of them than its budget.
        budget = seen.card.facts.max_num_batched_tokens
        most_s = model.prefill_s(budget, 0, budget)
        before_s = min(before_s / busy, before_s + most_s)
        step_s = min(alone_s / busy, alone_s + most_s)
        over = batch + 1 - seen.card.facts.max_num_seqs
        admit_s = step_s / 2  # on average half of the step under way is left
        if over > 0:
            waits = seen.books.finishes_s
            nth = bisect_right(waits, then) + over - 1
            admit_s += waits[nth] - then if nth < len(waits) else self._output * step_s
        if seen.books.uncached_tokens or seen.load.others.prompt_tokens:
            # What of a step's tokens the running ones leave is the first prompt's: whoever comes meanwhile is let in behind them all.
            admit_s = max(admit_s, self.prefill(worker).queue_s - in_s)
        return _Decode(batch, before_s, step_s, alone_s, admit_s)

    def _share_of(self, seen: WorkerView) -> float:
        """The part of its time that prompts will have there: its own, or its pool's where that is more, as prompts go to whoever of the
        pool has least to do."""
        now = self._ask.now_s
        return max(self._share.mean(seen.card.role, self._view, now), self._share.of(seen.card.worker, now))

    def decoding_s(self, worker: WorkerId, in_s: float) -> float:
        """The cost as far as it concerns the decode worker alone, to find the best; worked out once, for one ``in_s``."""
        found = self._decodings_s.get(worker)
        if found is None:
            found = self._decodings_s[worker] = self._decoding_s(worker, in_s)
        return found

    def _decoding_s(self, worker: WorkerId, in_s: float) -> float:
        there = self.decode(worker, in_s)
        slower_s = self._output * (there.step_s - there.before_s)
        own_s = there.admit_s + self._output * there.step_s
        return own_s + there.batch * slower_s + _MISS_S * self._breaks(worker, slower_s) - 1e-6 * self._cached(worker)

    def _breaks(self, worker: WorkerId, stall_s: float) -> float:
        """How many others who decode there, and are held up so much longer, break their promises. Of other routers' requests nothing is
        known but their number: they are taken to be like this one's."""
        books, others = self._view[worker].books, self._view[worker].load.others.decoding
        if stall_s <= 0.0 or not books.decoding or "misses" in self._without:
            return 0.0
        return books.broken_by(stall_s) * (1.0 + others / books.decoding)

    def _broken_by_prompt(self, worker: WorkerId, first: _Prefill) -> float:
        """How many others break their promises if this prompt is computed there.

        One that makes no step longer than all that decode there can bear breaks none of theirs, however many steps it takes. But those
        that are handed over there meanwhile are not let in before it is done: what of a step's tokens the running ones leave is its.
        """
        if first.stall_s <= 0.0 or "misses" in self._without:
            return 0.0
        seen = self._view[worker]
        comes = self._handed.mean(seen.card.role, self._view, self._ask.now_s) * first.stall_s
        till_s = first.queue_s + first.stall_s
        part = self._part_broken_by(worker, till_s) - self._part_broken_by(worker, first.queue_s)
        harmless = not seen.books.handovers and first.step_stall_s <= seen.books.token_slack_s
        return comes * part + (0.0 if harmless else self._breaks(worker, first.stall_s))

    def _unforeseen(self, worker: WorkerId, first: _Prefill) -> float:
        """What the prompt breaks there beyond that: nobody knows who will be handed over behind it, and has to wait for it."""
        if first.stall_s <= 0.0 or "misses" in self._without:
            return 0.0
        if not self._handed.mean(self._view[worker].card.role, self._view, self._ask.now_s):
            return 0.0
        return _UNFORESEEN * min(1.0, first.stall_s / _LONG_S)

    def _part_broken_by(self, worker: WorkerId, stall_s: float) -> float:
        """Of requests like this one that are handed over to the worker, those that cannot be held up so long before their second token."""
        ask, seen = self._ask, self._view[worker]
        if ask.tpot_s is None or not ask.likely_tokens:
            return 0.0
        step_s = self._predictions.step_model(seen).decode_s(seen.decoding + 1, seen.decode_context_tokens + ask.prompt_tokens)
        sender = next((other for other, seen in self._view.items() if seen.card.role is Role.PREFILL), worker)
        moved = ask.prompt_tokens * self._predictions.kv_bytes_per_token
        spent_s = stall_s + self._predictions.transfer_s(sender, worker, moved) + step_s / 2
        return sum((ask.tpot_s - step_s) * (tokens - 1.0) < spent_s for tokens in ask.likely_tokens) / len(ask.likely_tokens)

    def scored(self, plan: Plan) -> Scored:
        """The price of one plan."""
        ask = self._ask
        kept = plan.prefill == ask.keeper
        first = _Prefill(0.0, 0.0, 0.0, 0.0, 0) if kept else self.prefill(plan.prefill)
        transfer_s = 0.0
        if plan.is_split:
            missing = ask.prompt_tokens - self._cached(plan.decode)
            transfer_s = self._predictions.transfer_s(plan.prefill, plan.decode, missing * self._predictions.kv_bytes_per_token)
        there = self.decode(plan.decode, first.total_s + transfer_s)
        slower_s = self._output * (there.step_s - there.before_s)
        terms = {
            "queue": first.queue_s,
            "prefill": first.prefill_s,
            "transfer": transfer_s,
            "admit": there.admit_s,
            "decode": self._output * there.step_s,
            "interference": there.batch * slower_s + first.stalled * first.stall_s,
        }
        handover_s = transfer_s + there.admit_s
        ttft_s = ask.waited_s + first.total_s + (0.0 if ask.first_token_early else handover_s + there.step_s)
        tpot_s = there.step_s + (handover_s / self._output if ask.first_token_early else 0.0)
        if plan.is_split:
            slow = self._chance_slow(there.step_s, handover_s if ask.first_token_early else 0.0)
        else:
            slow = self._chance_held_up(self._view[plan.decode].card.role, tpot_s)
        late_s = 0.0
        if ask.ttft_s is not None and not kept:
            late_s = self._predictions.ttft_late_s(self._view[plan.prefill].card.role, ask.ttft_s)
        miss = 1.0 - (1.0 - _chance(ttft_s + late_s, ask.ttft_s)) * (1.0 - slow)
        breaks = self._broken_by_prompt(plan.prefill, first) + self._breaks(plan.decode, slower_s)
        terms["misses"] = _MISS_S * (miss + breaks + self._unforeseen(plan.prefill, first))
        cost = sum(seconds for name, seconds in terms.items() if name not in self._without)
        return Scored(
            plan,
            cost,
            f"{ttft_s:.3g} s to the first token, {tpot_s:.3g} s per token",
            terms,
            ttft_s,
            tpot_s,
            1.0 - miss,
            breaks,
            there.alone_s,
            first.stall_s,
        )

    def _chance_held_up(self, role: Role, tpot_s: float) -> float:
        """That its mean time per token is too long on a worker that goes on taking prompts: by the model, and by what happened lately."""
        objective_s = self._ask.tpot_s
        if objective_s is None:
            return 0.0
        slower, of = self._predictions.slower_alone(role, objective_s / tpot_s, self._ask.now_s)
        return (slower + _BELIEF * _chance(tpot_s, objective_s)) / (of + _BELIEF)

    def _chance_slow(self, step_s: float, handover_s: float) -> float:
        """That its mean time per token is too long: a hand-over weighs on the few tokens of a short answer."""
        lengths = self._ask.likely_tokens
        if not handover_s or not lengths or self._ask.tpot_s is None:
            return _chance(step_s + handover_s / self._output, self._ask.tpot_s)
        return sum(_chance(step_s + handover_s / max(1.0, tokens - 1.0), self._ask.tpot_s) for tokens in lengths) / len(lengths)


def _chance(predicted_s: float, objective_s: float | None) -> float:
    """That something predicted to take so long takes longer than it may."""
    if objective_s is None:
        return 0.0
    doubts = (predicted_s - objective_s) / (_DOUBT * objective_s)
    return 1.0 / (1.0 + math.exp(-min(50.0, max(-50.0, doubts))))
