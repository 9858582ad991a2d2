"""What plans cost, in seconds of everybody's time: the arithmetic of ``joint.py``.

Everything is worked out once: what depends on a worker alone, on a worker and the size of its batch, on a prompt on a worker. What is
left for each of many pairs is a few sums.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from core.ids import WorkerId
from core.step_model import StepModel
from core.worker import Role
from router.arrivals import wait_s
from router.balancer.adapter_load import NOTHING_TO_LOAD, loading
from router.balancer.base import Predictions
from router.balancer.price_parts import KEPT_PROMPT, TERMS, Decoding, Place, Priced, Prompt, Steps
from router.balancer.rate import Rate
from router.plan import Ask, Plan, View, WorkerView

SWITCHES = frozenset({*TERMS, "prefix", "foresight", "alone", "blur"})
"""What an ablation can leave out: terms, and beside them knowledge of caches, of the future, plans with one worker, and what keeps
routers that see the same from doing the same."""

_MISS_S = 30.0
"""What one request that misses its objective costs."""
_DOUBT = 0.1
"""By how much of an objective predictions err: the chance of a miss is even at the objective, and small this far below it."""
_SURE = 14.0
"""So many times ``_DOUBT`` away from the objective there is no chance left: less than one in a million."""
_BELIEF = 4
"""The model's word against experience: it counts as much as so many answers."""
_BUSY_AT_MOST = 0.9
"""Of a worker's time, for prompts beside its answers: more would make steps endless."""


class Pricing:
    """The prices of one decision. ``share``: of workers' time, what prompts have had lately; ``handed``: hand-overs per second."""

    def __init__(self, ask: Ask, view: View, predictions: Predictions, share: Rate, handed: Rate, without: frozenset[str]) -> None:
        self._ask = ask
        self._view = view
        self._predictions = predictions
        self._share = share
        self._handed = handed
        self._without = without
        self._counts_misses = "misses" not in without
        self._output = max(1.0, ask.expected_tokens)
        self._places: dict[WorkerId, Place] = {}
        self._prompts: dict[WorkerId, Prompt] = {}
        self._harms: dict[WorkerId, float] = {}
        self._decodings: dict[WorkerId, Decoding] = {}
        self._lates_s: dict[Role, float] = {}
        self._token_bytes = predictions.kv_bytes_per_token
        lengths = [tokens - 1.0 for tokens in ask.likely_tokens] or [self._output]
        self._per_token = [1.0 / max(1.0, length) for length in lengths]
        """Of a delay at the beginning, what each token of an answer bears, by its likely lengths."""
        self._part = sum(self._per_token) / len(self._per_token) if ask.first_token_early else 0.0
        """The same on average, which is good enough to find the best."""

    # -- prompts -------------------------------------------------------------------------------------------------------

    def to_prefill_s(self, worker: WorkerId) -> float:
        """From now until the prompt is computed there."""
        return 0.0 if worker == self._ask.keeper else self._prompt(worker).total_s

    def prefilling_s(self, worker: WorkerId) -> float:
        """The cost as far as it concerns the worker that computes the prompt, to find the best; without what that does to others'
        promises, which takes longest to tell."""
        if worker == self._ask.keeper:
            return 0.0
        first = self._prompt(worker)
        cost_s = first.queue_s + first.prefill_s + first.stalled_s
        if self._without:
            cost_s = self._counted(queue=first.queue_s, prefill=first.prefill_s, interference=first.stalled_s)
        if first.load is not NOTHING_TO_LOAD:
            cost_s += first.load.cost_s
        promised_s = self._ask.ttft_s
        if promised_s is not None and self._counts_misses:
            late_s = self._late_s(self._places[worker].seen.card.role, promised_s)
            cost_s += _MISS_S * _chance(self._ask.waited_s + first.total_s + late_s, promised_s)
        return cost_s

    def soonest_s(self, ahead_tokens: float, everywhere: bool) -> float:
        """Until the prompt is computed where that is soonest, behind so many tokens that are for nobody yet and go to all alike.

        By prefill workers; ``everywhere``: by others, too, where that breaks no promise now, and nothing is promised per token: else how
        many prompts they can bear depends on who is handed over to them next.
        """
        takers = [worker for worker, seen in self._view.items() if seen.card.role is Role.PREFILL] or list(self._view)
        if everywhere and self._ask.tpot_s is None and len(takers) < len(self._view):
            others = [worker for worker, seen in self._view.items() if seen.card.role is not Role.PREFILL]
            takers += [worker for worker in others if not self._harm(worker)]
        places = [self._place(worker) for worker in takers]
        speed = sum(place.budget / max(1e-9, place.most_s) for place in places)
        return min(self._prompt(worker).total_s for worker in takers) + ahead_tokens / speed

    def _prompt(self, worker: WorkerId) -> Prompt:
        found = self._prompts.get(worker)
        if found is None:
            found = self._prompts[worker] = self._new_prompt(self._place(worker))
        return found

    def _new_prompt(self, place: Place) -> Prompt:
        """The prompt computed there from now on."""
        ask, seen, model, budget = self._ask, place.seen, place.model, place.budget
        decoding = seen.decoding
        beside_s = model.decode_s(decoding, seen.decode_context_tokens) if decoding else 0.0
        new = ask.prompt_tokens - place.cached
        steps = -(-new // budget)
        alone_s = model.prefill_s(new, place.cached, budget)
        stall_s = alone_s - steps * min(model.prefill_base_s, model.decode_base_s)
        prefill_s = stall_s + steps * beside_s if decoding else alone_s
        queue_s = self._queue_s(seen, model, beside_s) + beside_s / 2  # on average half of the step under way is left
        total_s = queue_s + place.load.own_s + prefill_s
        comes = self._handed.mean(seen.card.role, self._view, ask.now_s) if self._counts_misses and stall_s > 0.0 else 0.0
        return Prompt(queue_s, prefill_s, total_s, stall_s, stall_s / steps, decoding * stall_s, place.load, comes)

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

    def _harm(self, worker: WorkerId) -> float:
        """How many others break their promises if this prompt is computed there: those that decode there, or will, and those that will
        probably be handed over meanwhile. Asked for the few best only: it takes longer than all else of a worker."""
        found = self._harms.get(worker)
        if found is None:
            found, first = 0.0, self._prompt(worker)
            if self._counts_misses and first.stall_s > 0.0:
                place = self._place(worker)
                found = self._held_up(place.seen, first)
                unknown = first.comes * first.stall_s + self._unknown(place.seen)
                if unknown:
                    late = self._part_broken(place, first.queue_s + first.stall_s) - self._part_broken(place, first.queue_s)
                    found += unknown * late
            self._harms[worker] = found
        return found

    def _unknown(self, seen: WorkerView) -> int:
        """Other routers' requests that are handed over to the worker, or decode there where none of this router's does."""
        others = seen.load.others
        arriving = others.legs - others.decoding if others.arriving_tokens else 0
        return arriving if seen.books.decoding else others.decoding + arriving

    def _held_up(self, seen: WorkerView, first: Prompt) -> float:
        """Of those that are there, or are known to come, how many break their promises for a prompt computed there.

        Who can bear that each of its steps is as long as with a part of the prompt can bear the whole, however many steps that takes. But
        those that are handed over meanwhile are not let in before it is done: what of a step's tokens the running ones leave is its.
        """
        broken, books = self._breaks(seen, first.stall_s), seen.books
        if not broken or books.handovers or seen.load.others.arriving_tokens:
            return broken
        return min(broken, self._with_others(seen, books.broken_by_steps(first.step_stall_s)))

    def _part_broken(self, place: Place, stall_s: float) -> float:
        """Of requests like this one that are handed over to the worker, those that cannot be held up so long before their second token."""
        ask, seen = self._ask, place.seen
        if ask.tpot_s is None or not ask.likely_tokens:
            return 0.0
        step_s = place.model.decode_s(seen.decoding + 1, seen.decode_context_tokens + ask.prompt_tokens)
        sender = next((other for other, seen in self._view.items() if seen.card.role is Role.PREFILL), place.worker)
        moved = ask.prompt_tokens * self._token_bytes
        spent_s = stall_s + self._predictions.link(sender, place.worker).seconds(moved) + step_s / 2
        return sum((ask.tpot_s - step_s) * (tokens - 1.0) < spent_s for tokens in ask.likely_tokens) / len(ask.likely_tokens)

    # -- answers -------------------------------------------------------------------------------------------------------

    def decoding_s(self, worker: WorkerId, prefill: WorkerId, in_s: float) -> float:
        """The cost as far as it concerns the decode worker, to find the best for a prompt that ``prefill`` will have computed ``in_s``
        seconds from now: with the transfer from there."""
        place = self._place(worker)
        found = self._decoding(place, in_s)
        transfer_s, _ = self._transfer(prefill, place, in_s)
        cost_s = found.cost_s + (0.0 if "transfer" in self._without else transfer_s)
        handover_s = found.admit_s + transfer_s
        if place.load is not NOTHING_TO_LOAD:
            cost_s += place.load.cost_s
            handover_s += place.load.own_s
        promised_s = self._ask.tpot_s
        if promised_s is not None and self._counts_misses:
            cost_s += _MISS_S * _chance(found.steps.step_s + handover_s * self._part, promised_s)
        return cost_s

    def answer_s(self, worker: WorkerId, in_s: float) -> float:
        """The cost of decoding there, wherever the prompt is computed."""
        return self._decoding(self._place(worker), in_s).cost_s

    def alone_s(self, worker: WorkerId, in_s: float) -> float:
        """The cost of one worker for all of it, to find the best: without what its prompt does to those that will be handed over there.
        ``in_s`` is the same for all."""
        place = self._place(worker)
        found = self._decoding(place, in_s)
        cost_s = self.prefilling_s(worker) + found.cost_s
        promised_s = self._ask.tpot_s
        if self._counts_misses:
            if promised_s is not None:
                cost_s += _MISS_S * _chance(found.steps.step_s, promised_s)
            cost_s += _MISS_S * self._held_up(place.seen, self._prompt(worker))
        return cost_s

    def _decoding(self, place: Place, in_s: float) -> Decoding:
        """``_decode``, worked out once for one ``in_s``."""
        found = self._decodings.get(place.worker)
        if found is None:
            there, admit_s = self._decode(place, in_s)
            decode_s, slower_s = self._output * there.step_s, there.batch * there.slower_s
            cost_s = admit_s + decode_s + slower_s
            if self._without:
                cost_s = self._counted(admit=admit_s, decode=decode_s, interference=slower_s)
            found = self._decodings[place.worker] = Decoding(there, admit_s, cost_s + _MISS_S * there.breaks)
        return found

    def _transfer(self, prefill: WorkerId, place: Place, in_s: float) -> tuple[float, float]:
        """What the worker does not have of the prompt, once that is computed, ``in_s`` seconds from now: the seconds until it is there,
        and those of them that nothing else can come in."""
        link, now_s, seen = self._predictions.link(prefill, place.worker), self._ask.now_s, place.seen
        token_s = link.byte_s * self._token_bytes
        moves_s = token_s * (self._ask.prompt_tokens - place.cached)
        others_s = token_s * seen.load.others.arriving_tokens
        return wait_s(seen.books.arrivals, now_s + in_s, now_s, others_s) + link.latency_s + moves_s, moves_s

    def _decode(self, place: Place, in_s: float) -> tuple[Steps, float]:
        """Decoding there, ``in_s`` seconds from now: the steps, and the time until it is let in."""
        seen, now = place.seen, self._ask.now_s
        books, load = seen.books, seen.load
        then = now if "foresight" in self._without else now + in_s
        batch = (books.decoding_at(then, now) if books.decoding else 0) + load.others.decoding
        there = place.steps.get(batch)
        if there is None:
            there = place.steps[batch] = self._steps(place, batch)
        admit_s = there.step_s / 2  # on average half of the step under way is left
        over = batch + 1 - seen.card.facts.max_num_seqs
        if over > 0:
            waits = books.finishes_s
            nth = bisect_right(waits, then) + over - 1
            admit_s += waits[nth] - then if nth < len(waits) else self._output * there.step_s
        if books.uncached_tokens or load.others.prompt_tokens:
            # What of a step's tokens the running ones leave is the first prompt's: whoever comes meanwhile is let in behind them all.
            admit_s = max(admit_s, self._prompt(place.worker).queue_s - in_s)
        return there, admit_s

    def _steps(self, place: Place, batch: int) -> Steps:
        """Beside so many others. However many prompts come, a step computes no more of them than its budget."""
        model, seen, most_s = place.model, place.seen, place.most_s
        # Prompts of its own, or of its pool where those are more, as prompts go to whoever of the pool has least to do.
        free = 1.0 - min(_BUSY_AT_MOST, max(place.share, self._share.of(place.worker, self._ask.now_s)))
        context = int(seen.decode_context_tokens / seen.decoding * batch) if seen.decoding else 0
        alone_s = model.decode_s(batch + 1, context + self._ask.prompt_tokens + int(self._output / 2))
        before_s = model.decode_s(batch, context)
        before_s = min(before_s / free, before_s + most_s)
        step_s = min(alone_s / free, alone_s + most_s)
        slower_s = self._output * (step_s - before_s)
        breaks = self._breaks(seen, slower_s)
        return Steps(batch, step_s, alone_s, slower_s, breaks)

    def _breaks(self, seen: WorkerView, stall_s: float) -> float:
        """How many others who decode there, and are held up so much longer, break their promises."""
        if stall_s <= 0.0 or not seen.books.decoding or not self._counts_misses:
            return 0.0
        return self._with_others(seen, seen.books.broken_by(stall_s))

    def _with_others(self, seen: WorkerView, broken: float) -> float:
        """Of other routers' requests nothing is known but their number: they are taken to be like this one's."""
        return broken * (1.0 + seen.load.others.decoding / seen.books.decoding)

    # -- plans ---------------------------------------------------------------------------------------------------------

    def priced(self, plan: Plan) -> Priced:
        """The price of one plan."""
        ask, place = self._ask, self._place(plan.decode)
        kept = plan.prefill == ask.keeper
        first, breaks = (KEPT_PROMPT, 0.0) if kept else (self._prompt(plan.prefill), self._harm(plan.prefill))
        transfer_s, moves_s = self._transfer(plan.prefill, place, first.total_s) if plan.is_split else (0.0, 0.0)
        later = place.load if plan.is_split else NOTHING_TO_LOAD  # by the decode worker, once it is asked
        there, admit_s = self._decode(place, first.total_s + transfer_s)
        handover_s, step_s = later.own_s + transfer_s + admit_s, there.step_s
        if ask.first_token_early:
            ttft_s = ask.waited_s + first.total_s
            tpot_s = step_s + handover_s / self._output
        else:
            ttft_s = ask.waited_s + first.total_s + handover_s + step_s
            tpot_s, handover_s = step_s, 0.0
        slow = self._chance_slow(step_s, handover_s) if plan.is_split else self._chance_held_up(place, tpot_s)
        miss = 1.0 - (1.0 - self._chance_late(plan.prefill, ttft_s, kept)) * (1.0 - slow)
        breaks += there.breaks + self._breaks(place.seen, (later if plan.is_split else first.load).own_s)
        terms = (
            first.queue_s,
            first.load.cost_s + later.cost_s,
            first.prefill_s,
            transfer_s,
            admit_s,
            self._output * step_s,
            there.batch * there.slower_s + first.stalled_s,
            _MISS_S * (miss + breaks),
        )
        cost = self._counted(**dict(zip(TERMS, terms, strict=True))) if self._without else sum(terms)
        times = (there.alone_s, first.stall_s, first.total_s, moves_s)
        return Priced(plan, cost, terms, ttft_s, tpot_s, 1.0 - miss, breaks, *times)

    def _counted(self, **terms_s: float) -> float:
        """The sum of those terms that are not left out."""
        return sum(seconds for name, seconds in terms_s.items() if name not in self._without)

    def _chance_late(self, prefill: WorkerId, ttft_s: float, kept: bool) -> float:
        """That its first token comes too late."""
        promised_s = self._ask.ttft_s
        if promised_s is None:
            return 0.0
        late_s = 0.0 if kept else self._late_s(self._view[prefill].card.role, promised_s)
        return _chance(ttft_s + late_s, promised_s)

    def _late_s(self, role: Role, promised_s: float) -> float:
        found = self._lates_s.get(role)
        if found is None:
            found = self._lates_s[role] = self._predictions.ttft_late_s(role, promised_s)
        return found

    def _chance_held_up(self, place: Place, tpot_s: float) -> float:
        """That its mean time per token is too long on a worker that goes on taking prompts: by the model, and by what happened lately."""
        promised_s = self._ask.tpot_s
        if promised_s is None:
            return 0.0
        slower, of = self._predictions.slower_alone(place.seen.card.role, promised_s / tpot_s, self._ask.now_s)
        return (slower + _BELIEF * _chance(tpot_s, promised_s)) / (of + _BELIEF)

    def _chance_slow(self, step_s: float, handover_s: float) -> float:
        """That its mean time per token is too long: a hand-over weighs on the few tokens of a short answer."""
        promised_s = self._ask.tpot_s
        if promised_s is None:
            return 0.0
        if not handover_s:
            return _chance(step_s, promised_s)
        chances = [_chance(step_s + handover_s * part, promised_s) for part in self._per_token]
        return sum(chances) / len(chances)

    def _place(self, worker: WorkerId) -> Place:
        found = self._places.get(worker)
        if found is None:
            found = self._places[worker] = self._new_place(worker, self._view[worker])
        return found

    def _new_place(self, worker: WorkerId, seen: WorkerView) -> Place:
        ask = self._ask
        model, budget = self._predictions.step_model(seen), seen.card.facts.max_num_batched_tokens
        share = self._share.mean(seen.card.role, self._view, ask.now_s)
        cached = 0 if "prefix" in self._without else min(ask.hits.get(worker, 0), ask.prompt_tokens - 1)
        load = NOTHING_TO_LOAD if "load" in self._without else loading(ask, worker, seen)
        return Place(worker, seen, model, budget, cached, share, load, {})


def _chance(predicted_s: float, promised_s: float) -> float:
    """That something predicted to take so long takes longer than is promised."""
    doubts = (predicted_s - promised_s) / (_DOUBT * promised_s)
    if doubts < -_SURE:
        return 0.0
    return 1.0 / (1.0 + math.exp(-doubts)) if doubts < _SURE else 1.0
